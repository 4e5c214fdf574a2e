//! The folder a spool lives in, as the few operations it needs: so that tests can cut the power
//! between any two of them. No meaning here, only files.

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use rustix::fs::{FallocateFlags, FlockOperation};

/// A folder. Names are durable after `sync_names`, bytes after [`File::sync`].
pub(super) trait Store: Send + Sync + 'static {
    /// Makes a new empty file; fails if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, which nothing has.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Names and sizes of the plain files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    fn sync_names(&self) -> io::Result<()>;
    /// Keeps a copy of something that could not be read, for people.
    fn set_aside(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    fn space(&self) -> io::Result<Space>;
}

pub(super) trait File: Send + Sync {
    /// Writes all of the pieces, one after the other.
    fn write_at(&self, pieces: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Fills the buffer, or as much of it as the file has.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn sync(&self) -> io::Result<()>;
    /// Takes room on disk for this many bytes; those that were not there before read as zero.
    fn allocate(&self, len: u64) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn map(&self) -> io::Result<Mapping>;
}

/// Bytes of the file system the store is on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub total: u64,
    pub free: u64,
}

/// The bytes of a whole file.
#[derive(Debug)]
pub(super) enum Mapping {
    Mapped(Mmap),
    #[cfg(test)]
    Copied(Vec<u8>),
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Mapping::Mapped(map) => map,
            #[cfg(test)]
            Mapping::Copied(bytes) => bytes,
        }
    }
}

/// A real folder, locked for this process as long as the value lives.
pub(super) struct Disk {
    dir: PathBuf,
    names: fs::File,
    _lock: fs::File,
}

impl Disk {
    /// Makes the folder if need be. None: another process has it.
    pub fn open(dir: &Path) -> io::Result<Option<Disk>> {
        if !dir.is_dir() {
            fs::create_dir_all(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let names = fs::File::open(dir)?;
                Ok(Some(Disk { dir: dir.to_owned(), names, _lock: lock }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Store for Disk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file =
            fs::OpenOptions::new().read(true).write(true).create_new(true).open(self.dir.join(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.dir.join(name);
        match fs::OpenOptions::new().read(true).write(true).open(&path) {
            // What a broken file system still shows can be delivered.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Ok(Arc::new(fs::File::open(path)?))
            }
            file => Ok(Arc::new(file?)),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            let metadata = file.metadata()?;
            if metadata.is_file()
                && let Ok(name) = file.file_name().into_string()
            {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.names.sync_all()
    }

    fn set_aside(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let dir = self.dir.join("damaged");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), bytes)
    }

    fn space(&self) -> io::Result<Space> {
        let fs = rustix::fs::fstatvfs(&self.names)?;
        Ok(Space { total: fs.f_blocks * fs.f_frsize, free: fs.f_bavail * fs.f_frsize })
    }
}

impl File for fs::File {
    fn write_at(&self, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        /// `IOV_MAX` of Linux.
        const MOST: usize = 1024;
        while !pieces.is_empty() {
            let most = pieces.len().min(MOST);
            match rustix::io::pwritev(self, &pieces[..most], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut pieces, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, len) {
            // A file system that cannot: the room is then found, or not, with each write.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.set_len(len),
            other => Ok(other?),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn map(&self) -> io::Result<Mapping> {
        // SAFETY: the folder is locked and a content file never changes once it is finished, so
        // nobody writes to or shortens what is mapped; removal leaves the mapping intact.
        unsafe { Mmap::map(self) }.map(Mapping::Mapped)
    }
}
