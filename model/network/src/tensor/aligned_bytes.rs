//! Memory of the host for tensors.

use memmap2::MmapMut;

/// Bytes that start at a multiple of 64, so that vector loads of whole cache lines meet no border.
#[derive(Debug)]
pub struct AlignedBytes {
    memory: Memory,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<CacheLine>),
    /// Fresh pages from the operating system, large ones where it has them.
    Pages(MmapMut),
}

#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

impl AlignedBytes {
    /// From the heap: for what comes and goes.
    pub fn zeroed(len: usize) -> Self {
        Self {
            memory: Memory::Heap(bytemuck::allocation::zeroed_vec(len.div_ceil(64))),
            len,
        }
    }

    /// In memory pages of their own, large ones where the system has them: for weights, which stay. With ordinary pages
    /// a pass over all weights spends a tenth of its time on address translation.
    pub fn zeroed_pages(len: usize) -> Self {
        const WORTH_IT: usize = 1 << 20;
        match MmapMut::map_anon(len) {
            Ok(pages) if len >= WORTH_IT => {
                // A system without large pages refuses; ordinary ones do as well, only slower.
                #[cfg(target_os = "linux")]
                let _ = pages.advise(memmap2::Advice::HugePage);
                Self {
                    memory: Memory::Pages(pages),
                    len,
                }
            }
            _ => Self::zeroed(len),
        }
    }

    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut own = Self::zeroed(bytes.len());
        own.as_mut_slice().copy_from_slice(bytes);
        own
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(lines) => &bytemuck::cast_slice(lines)[..self.len],
            Memory::Pages(pages) => &pages[..self.len],
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(lines) => &mut bytemuck::cast_slice_mut(lines)[..self.len],
            Memory::Pages(pages) => &mut pages[..self.len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_starts_at_a_cache_line() {
        for len in [1, 63, 64, 65, 1000] {
            assert_eq!(
                AlignedBytes::zeroed(len).as_slice().as_ptr() as usize % 64,
                0
            );
        }
    }
}
