//! The fields of a tar header: POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU.

/// Headers and data are padded to this many bytes.
pub(super) const BLOCK: u64 = 512;

/// Whether a file that begins so can be a plain tar: a header, or the zeros that an empty one consists of.
pub(crate) fn looks_like_tar(head: &[u8]) -> bool {
    <&[u8; 512]>::try_from(head).is_ok_and(|block| block.iter().all(|b| *b == 0) || checksum_ok(block))
}

/// The name in a header, joined with its prefix where the header is of the POSIX kind (GNU's has times there).
pub(super) fn short_name(header: &[u8; 512]) -> String {
    let name = text(&header[0..100]);
    if &header[257..263] == b"ustar\0" && header[345] != 0 {
        return format!("{}/{name}", text(&header[345..500]));
    }
    name
}

/// Bytes to the first NUL.
pub(super) fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// A number in octal, or in base 256 (GNU) when it is large; `None` for what is neither, is negative or does not fit.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7f);
        return field[1..].iter().try_fold(first, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)));
    }
    let digits = field.iter().copied().skip_while(|b| *b == b' ');
    let mut value = 0u64;
    let mut ended = false;
    for byte in digits {
        match byte {
            b'0'..=b'7' if !ended => value = value.checked_mul(8)?.checked_add(u64::from(byte - b'0'))?,
            b' ' | 0 => ended = true,
            _ => return None,
        }
    }
    Some(value)
}

/// The sum of the header's bytes with its own field as spaces; some old writers added signed bytes.
pub(super) fn checksum_ok(block: &[u8; 512]) -> bool {
    let Some(expected) = number(&block[148..156]) else { return false };
    let bytes = || block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
    expected == unsigned || i64::try_from(expected) == Ok(signed)
}

/// The first pax record: key, value and what follows.
pub(super) fn pax_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(8).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let record = data.get(space + 1..length)?;
    let (newline, record) = record.split_last()?;
    let equals = record.iter().position(|b| *b == b'=')?;
    (*newline == b'\n').then(|| (&record[..equals], &record[equals + 1..], &data[length..]))
}
