//! LZO1X, read only: enroot's files are written with it unless told otherwise.
//!
//! A stream is instructions: copy so many bytes from the input, or copy so many from what was written before, at some
//! distance. What an instruction below 16 means depends on how many bytes the one before copied from the input.
//!
//! Source: the kernel's Documentation/staging/lzo.rst.

/// Decompresses a whole block into `output` and says how long it is.
pub fn decompress(input: &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
    Stream { input, at: 0, output, filled: 0 }.run()
}

struct Stream<'a> {
    input: &'a [u8],
    at: usize,
    output: &'a mut [u8],
    filled: usize,
}

impl Stream<'_> {
    fn run(mut self) -> Result<usize, &'static str> {
        // Literals that the last instruction copied; 4 stands for more than 3.
        let mut literals = 0;
        // The first byte may be a run of literals of its own kind.
        if let Some(first @ 18..) = self.input.first().map(|byte| usize::from(*byte)) {
            self.at = 1;
            self.literals(first - 17)?;
            literals = (first - 17).min(4);
        }
        loop {
            let code = self.byte()?;
            let (length, distance, next);
            match code {
                0..16 if literals == 0 => {
                    let length = self.length(code, 15)? + 3;
                    self.literals(length)?;
                    literals = 4;
                    continue;
                }
                0..16 => {
                    let far = self.byte()? << 2;
                    (length, distance) =
                        if literals == 4 { (3, far + (code >> 2) + 2049) } else { (2, far + (code >> 2) + 1) };
                    next = code & 3;
                }
                16..32 => {
                    length = self.length(code & 7, 7)? + 2;
                    let word = self.word()?;
                    distance = 16_384 + ((code & 8) << 11) + (word >> 2);
                    if distance == 16_384 {
                        return if length == 3 && self.at == self.input.len() {
                            Ok(self.filled)
                        } else {
                            Err("its end is not where it ends")
                        };
                    }
                    next = word & 3;
                }
                32..64 => {
                    length = self.length(code & 31, 31)? + 2;
                    let word = self.word()?;
                    distance = (word >> 2) + 1;
                    next = word & 3;
                }
                _ => {
                    length = if code < 128 { 3 + ((code >> 5) & 1) } else { 5 + ((code >> 5) & 3) };
                    distance = (self.byte()? << 3) + ((code >> 2) & 7) + 1;
                    next = code & 3;
                }
            }
            self.earlier(distance, length)?;
            self.literals(next)?;
            literals = next;
        }
    }

    fn byte(&mut self) -> Result<usize, &'static str> {
        let byte = self.input.get(self.at).ok_or("it ends too early")?;
        self.at += 1;
        Ok(usize::from(*byte))
    }

    fn word(&mut self) -> Result<usize, &'static str> {
        Ok(self.byte()? | self.byte()? << 8)
    }

    /// A length: its bits in the instruction or, where these are zero, `base` and the bytes that follow, up to one that is
    /// not zero.
    fn length(&mut self, bits: usize, base: usize) -> Result<usize, &'static str> {
        if bits > 0 {
            return Ok(bits);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Ok(length + last),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Result<(), &'static str> {
        let from = self.input.get(self.at..self.at + count).ok_or("it ends too early")?;
        let to = self.output.get_mut(self.filled..self.filled + count).ok_or("it is too long")?;
        to.copy_from_slice(from);
        self.at += count;
        self.filled += count;
        Ok(())
    }

    fn earlier(&mut self, distance: usize, length: usize) -> Result<(), &'static str> {
        let from = self.filled.checked_sub(distance).ok_or("it copies from before its begin")?;
        if self.filled + length > self.output.len() {
            return Err("it is too long");
        }
        if distance >= length {
            self.output.copy_within(from..from + length, self.filled);
        } else {
            // What is copied is partly what was just copied.
            for at in 0..length {
                self.output[self.filled + at] = self.output[from + at];
            }
        }
        self.filled += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_of_every_kind_are_followed() {
        // Four literals, then six bytes from four before, then the end.
        let stream = [17 + 4, b'a', b'b', b'c', b'd', 0b1010_1100, 0, 0x11, 0, 0];
        let mut output = [0; 32];
        let length = decompress(&stream, &mut output).unwrap();
        assert_eq!(&output[..length], b"abcdabcdab");
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        for stream in
            [&[][..], &[0], &[0, 0, 0], &[17 + 4, 1], &[21, 1, 2, 3, 4, 0x40, 0xff, 0x11, 0, 0], &[0x11, 0, 0, 0]]
        {
            assert!(decompress(stream, &mut [0; 32]).is_err(), "{stream:?}");
        }
        assert_eq!(decompress(&[0x11, 0, 0], &mut [0; 32]), Ok(0));
        assert!(decompress(&[17 + 40; 60], &mut [0; 32]).is_err());
    }
}
