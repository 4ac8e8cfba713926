//! A disk that is soon full: a tmpfs of a given size, for as long as a test lasts.
#![allow(unsafe_code, reason = "mount and umount are libc calls")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The mounted disk; unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of `kib` KiB on a directory. Fails where this user may not mount.
    pub fn mount(at: &Path, kib: u64) -> io::Result<Self> {
        let target = CString::new(at.as_os_str().as_bytes())?;
        let options = CString::new(format!("size={kib}k,mode=700"))?;
        let name = c"tmpfs".as_ptr();
        // SAFETY: all pointers are to strings that end with NUL and live beyond the call.
        let result = unsafe { libc::mount(name, target.as_ptr(), name, 0, options.as_ptr().cast()) };
        if result == 0 { Ok(Self { at: at.to_owned() }) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Ok(target) = CString::new(self.at.as_os_str().as_bytes()) {
            // SAFETY: the pointer is to a string that ends with NUL. Lazily: a process may still be ending.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        }
    }
}
