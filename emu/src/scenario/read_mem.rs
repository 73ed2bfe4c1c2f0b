//! Reads `[host.virtio_mem]`: memory that is plugged and unplugged.

use wire::platform::{PAGE_SIZE, RAM_BYTES_MIN};

use super::diagnostic::Diagnostic;
use super::model::VirtioMem;
use super::read::{Fields, Reader};
use super::read_guest::table_of;
use super::units;

/// Bytes of a block when nothing else is asked for: QEMU's smallest.
const BLOCK_BYTES: u64 = 1 << 20;

impl<'d> Reader<'d> {
    /// Returns the device, which has the end of the guest's memory.
    pub(super) fn virtio_mem(&mut self, host: &Fields<'d>) -> Option<VirtioMem> {
        let fields = host.get("virtio_mem").and_then(|value| self.fields(table_of(host, "virtio_mem"), value))?;
        let block = self.size(&fields, "block").unwrap_or(BLOCK_BYTES);
        let (size, memslot) = (self.size(&fields, "size"), self.size(&fields, "memslot"));
        let plugged = self.several(&fields, "plugged");
        let size = size?;
        let memslot = memslot.unwrap_or(size);
        let text = |bytes| units::format(bytes, units::SIZES);
        for (key, bytes) in [("size", size), ("memslot", memslot)] {
            if !bytes.is_multiple_of(block) {
                let diagnostic = Diagnostic::error(fields.span_of(key), format!("`{key}` is not of whole blocks"));
                self.report(diagnostic.label(format!("a block is {}", text(block))));
                return None;
            }
        }
        if RAM_BYTES_MIN + size > self.ram_bytes || !self.ram_bytes.is_multiple_of(block) {
            let diagnostic = Diagnostic::error(fields.span_of("size"), "the memory does not fit into the guest's");
            let ram = text(self.ram_bytes);
            let label = format!("the guest has {ram}: {} are left to it, and blocks lie at multiples of their size", text(RAM_BYTES_MIN));
            self.report(diagnostic.label(label));
            return None;
        }
        let blocks = size / block;
        if let Some(block) = plugged.iter().find(|index| **index >= blocks) {
            let diagnostic = Diagnostic::error(fields.span_of("plugged"), format!("there is no block {block}"));
            self.report(diagnostic.label(format!("there are {}, from 0 on", blocks)));
            return None;
        }
        let mem = VirtioMem { pages: size / PAGE_SIZE, block_pages: block / PAGE_SIZE, memslot_pages: memslot / PAGE_SIZE, plugged };
        self.virtio_mem_pages = Some(mem.pages);
        Some(mem)
    }
}
