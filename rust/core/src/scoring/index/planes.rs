//! Memory of the codes of one segment.
//!
//! A search streams through the high planes of all segments, so they should lie in huge pages: on the machine of
//! docs/explanation/performance.md that halved the time of a scan of memory. A full segment of 384 dimensions has 1.5 MB of high
//! codes and as many low ones; from a mapping of its own that begins at a multiple of 2 MB the first huge page holds all
//! of the high ones. The rest, and everything small, is ordinary memory.

use memmap2::MmapMut;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Two planes of codes, the high one first.
#[derive(Debug, Default)]
pub(crate) struct Planes {
    memory: Memory,
    plane_len: usize,
}

enum Memory {
    Heap(Vec<u8>),
    /// A mapping and where the planes begin in it.
    Mapped(MmapMut, usize),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Heap(_) => "Heap",
            Self::Mapped(..) => "Mapped",
        })
    }
}

impl Planes {
    /// Zeros, `plane_len` of them in each plane.
    pub(crate) fn zeroed(plane_len: usize) -> Self {
        let memory = huge(2 * plane_len).unwrap_or_else(|| Memory::Heap(vec![0; 2 * plane_len]));
        Self { memory, plane_len }
    }

    fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(mapping, start) => &mapping[*start..*start + 2 * self.plane_len],
        }
    }

    /// The upper four bits of the codes.
    pub(crate) fn high(&self) -> &[u8] {
        &self.bytes()[..self.plane_len]
    }

    /// The lower four bits.
    pub(crate) fn low(&self) -> &[u8] {
        &self.bytes()[self.plane_len..]
    }

    /// Both, to be filled.
    pub(crate) fn split_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        let both = match &mut self.memory {
            Memory::Heap(bytes) => &mut bytes[..],
            Memory::Mapped(mapping, start) => &mut mapping[*start..*start + 2 * self.plane_len],
        };
        both.split_at_mut(self.plane_len)
    }
}

/// A mapping whose whole huge pages the system is asked to make huge; `None` if there would be none, or no mapping is to
/// be had. Only address space is spent on the alignment: pages that nothing touches take no memory.
#[cfg(all(target_os = "linux", not(miri)))]
fn huge(len: usize) -> Option<Memory> {
    let whole = len / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if whole == 0 {
        return None;
    }
    let mapping = MmapMut::map_anon(len + HUGE_PAGE_BYTES).ok()?;
    let start = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
    // Advice: where it is refused (a kernel without huge pages) everything works as before.
    let _ = mapping.advise_range(memmap2::Advice::HugePage, start, whole);
    Some(Memory::Mapped(mapping, start))
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn huge(_len: usize) -> Option<Memory> {
    None
}
