//! `libsubid_berth.so`: answers what the shadow tools ask of subordinate ids by the rule of [`berth_host::subid::rule`].
//!
//! With `subid: berth` in `/etc/nsswitch.conf` newuidmap(1), newgidmap(1), getsubids(1) and whatever is linked with libsubid (podman,
//! buildah) load this with dlopen(3) and call the four functions of shadow's interface (4.9 and later). They find no entries, and
//! no entries are needed: an account that was made a second ago has its range.
//!
//! The programs run as root. So nothing here starts a thread, changes the process or prints; nothing is trusted but the
//! account database and the site's file, which only root may write; and no panic passes the border: it becomes an error, which
//! means no range.

#![allow(unsafe_code)] // C calls us, and we the account database.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use berth_host::subid::{Range, Rule};
use libc::{c_char, c_int, c_uint, c_ulong, c_void, uid_t};

/// `enum subid_status`. An `enum` of C is an `unsigned int` here.
type Status = c_uint;
const SUCCESS: Status = 0;
const UNKNOWN_USER: Status = 1;
const ERROR: Status = 3;

/// `struct subid_range`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SubidRange {
    start: c_ulong,
    count: c_ulong,
}

/// Whether a user has all of a range. Both kinds of ids are asked alike, and have the same ranges.
///
/// # Safety
/// `owner` is a C string; `result` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shadow_subid_has_range(
    owner: *const c_char,
    start: c_ulong,
    count: c_ulong,
    _kind: c_uint,
    result: *mut bool,
) -> Status {
    if owner.is_null() || result.is_null() {
        return ERROR;
    }
    // SAFETY: the caller promises a string; the borrow ends with this call.
    let owner = unsafe { CStr::from_ptr(owner) };
    let answer = guarded(|| range_of(owner).map(|range| has(range, start, count)));
    // SAFETY: the caller promises a place for the answer.
    unsafe { result.write(answer.unwrap_or(false)) };
    answer.err().unwrap_or(SUCCESS)
}

/// A user's ranges: one.
///
/// # Safety
/// `owner` is a C string; `ranges` and `count` may be written to. The caller frees `*ranges`, with free(3) or
/// [`shadow_subid_free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shadow_subid_list_owner_ranges(
    owner: *const c_char,
    _kind: c_uint,
    ranges: *mut *mut SubidRange,
    count: *mut c_int,
) -> Status {
    if owner.is_null() || ranges.is_null() || count.is_null() {
        return ERROR;
    }
    // SAFETY: the caller promises a string; the borrow ends with this call.
    let owner = unsafe { CStr::from_ptr(owner) };
    let found = guarded(|| range_of(owner)).and_then(|range| {
        allocated(SubidRange { start: c_ulong::from(range.first), count: c_ulong::from(range.count) })
    });
    // SAFETY: the caller promises places for both.
    unsafe {
        ranges.write(found.unwrap_or(ptr::null_mut()));
        count.write(c_int::from(found.is_ok()));
    }
    found.err().unwrap_or(SUCCESS)
}

/// The uids of those in whose range an id is: nobody or one.
///
/// # Safety
/// `uids` and `count` may be written to. The caller frees `*uids`, with free(3) or [`shadow_subid_free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shadow_subid_find_subid_owners(
    id: c_ulong,
    _kind: c_uint,
    uids: *mut *mut uid_t,
    count: *mut c_int,
) -> Status {
    if uids.is_null() || count.is_null() {
        return ERROR;
    }
    let found = guarded(|| {
        let rule = Rule::load().map_err(|_| ERROR)?;
        let owner = u32::try_from(id).ok().and_then(|id| rule.owner(id)).map(|(uid, _)| uid);
        Ok(owner.filter(|uid| account(Key::Uid(*uid)).is_some()))
    });
    let list = match found {
        Ok(Some(uid)) => allocated(uid),
        Ok(None) => Ok(ptr::null_mut()),
        Err(status) => Err(status),
    };
    // SAFETY: the caller promises places for both.
    unsafe {
        uids.write(list.unwrap_or(ptr::null_mut()));
        count.write(c_int::from(list.is_ok_and(|list| !list.is_null())));
    }
    list.err().unwrap_or(SUCCESS)
}

/// Frees what the other functions gave; newer releases of shadow want the module to do it.
///
/// # Safety
/// `memory` is from them, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shadow_subid_free(memory: *mut c_void) {
    // SAFETY: all memory given to callers is of malloc.
    unsafe { libc::free(memory) };
}

/// No panic leaves this function.
fn guarded<T>(answer: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or(Err(ERROR))
}

fn range_of(owner: &CStr) -> Result<Range, Status> {
    let uid = account(Key::Name(owner)).or_else(|| {
        // The files may name a user by uid; so do callers.
        let uid = owner.to_str().ok()?.parse().ok()?;
        account(Key::Uid(uid))
    });
    let rule = Rule::load().map_err(|_| ERROR)?;
    rule.range(uid.ok_or(UNKNOWN_USER)?).map_err(|_| UNKNOWN_USER)
}

fn has(range: Range, start: c_ulong, count: c_ulong) -> bool {
    let (first, end) = (c_ulong::from(range.first), c_ulong::from(range.first) + c_ulong::from(range.count));
    count > 0 && start >= first && start.checked_add(count).is_some_and(|until| until <= end)
}

/// A value in memory of the C library.
fn allocated<T: Copy>(value: T) -> Result<*mut T, Status> {
    // SAFETY: malloc takes a number; what it gives is aligned for any type of C.
    let memory = unsafe { libc::malloc(size_of::<T>()) }.cast::<T>();
    if memory.is_null() {
        return Err(ERROR);
    }
    // SAFETY: it is there, large enough, and nobody else's.
    unsafe { memory.write(value) };
    Ok(memory)
}

enum Key<'a> {
    Name(&'a CStr),
    Uid(uid_t),
}

/// The uid of an account that there is.
fn account(key: Key<'_>) -> Option<uid_t> {
    // Entries of directories may be long; what needs more than this is none.
    for size in [1 << 12, 1 << 16, 1 << 20] {
        let mut buffer: Vec<c_char> = vec![0; size];
        // SAFETY: a passwd is numbers and pointers, for which all zero is a value.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are to live values; the length is the buffer's.
        let status = unsafe {
            match key {
                Key::Name(name) => {
                    libc::getpwnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), size, &raw mut found)
                }
                Key::Uid(uid) => libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), size, &raw mut found),
            }
        };
        if status != libc::ERANGE {
            return (!found.is_null()).then_some(entry.pw_uid);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_had_whole_or_not() {
        let range = Range { first: 65_601_536, count: 65_536 };
        assert!(has(range, 65_601_536, 65_536) && has(range, 65_601_540, 1) && has(range, 65_667_071, 1));
        for (start, count) in
            [(65_601_535, 2), (65_601_536, 65_537), (65_667_072, 1), (65_601_536, 0), (c_ulong::MAX, 2)]
        {
            assert!(!has(range, start, count), "{start} {count}");
        }
    }

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(guarded(|| -> Result<(), Status> { panic!("of a test") }), Err(ERROR));
    }

    #[test]
    fn accounts_are_found_by_name_and_uid() {
        assert_eq!(account(Key::Name(c"root")), Some(0));
        assert_eq!(account(Key::Uid(0)), Some(0));
        assert_eq!(account(Key::Name(c"no-such-user-at-all")), None);
    }

    #[test]
    fn root_and_strangers_have_no_range() {
        let (mut ranges, mut count, mut result) = (ptr::null_mut(), 7, true);
        for name in [c"root", c"no-such-user-at-all", c"0"] {
            // SAFETY: strings and places for the answers.
            let status = unsafe { shadow_subid_list_owner_ranges(name.as_ptr(), 1, &raw mut ranges, &raw mut count) };
            assert_eq!((status, count, ranges.is_null()), (UNKNOWN_USER, 0, true), "{name:?}");
            // SAFETY: likewise.
            let status = unsafe { shadow_subid_has_range(name.as_ptr(), 0, 1, 1, &raw mut result) };
            assert_eq!((status, result), (UNKNOWN_USER, false), "{name:?}");
        }
        // SAFETY: the interface allows callers to be wrong about pointers.
        assert_eq!(unsafe { shadow_subid_list_owner_ranges(ptr::null(), 1, &raw mut ranges, &raw mut count) }, ERROR);
        let mut uids = ptr::null_mut();
        for id in [0, 65_535, c_ulong::MAX] {
            // SAFETY: places for the answers.
            let status = unsafe { shadow_subid_find_subid_owners(id, 1, &raw mut uids, &raw mut count) };
            assert_eq!((status, count, uids.is_null()), (SUCCESS, 0, true), "{id}");
        }
    }
}
