//! Reads `[[host.blocks]]`: the RAM blocks that guest memory consists of.

use wire::platform::{PAGE_SIZE, RAM_BYTES_MIN};

use super::diagnostic::Diagnostic;
use super::model::RamBlock;
use super::read::{Fields, Reader};
use super::read_guest::table_of;

impl<'d> Reader<'d> {
    /// Returns the blocks, which together are guest memory; none: it is one.
    pub(super) fn blocks(&mut self, host: &Fields<'d>) -> Vec<RamBlock> {
        let Some(value) = host.get("blocks") else { return Vec::new() };
        let (table, total) = (table_of(host, "blocks"), self.ram_bytes / PAGE_SIZE - self.virtio_mem_pages.unwrap_or(0));
        let elements = self.list(value);
        let (count, problems) = (elements.len(), self.found.len());
        let (mut blocks, mut taken): (Vec<RamBlock>, u64) = (Vec::new(), 0);
        for (index, element) in elements.into_iter().enumerate() {
            let Some(fields) = self.fields(table, element) else { continue };
            let name = self.text(&fields, "name");
            let rest = (index + 1 == count && taken < total).then(|| total - taken);
            let pages = self.integer(&fields, "pages").or(rest);
            let offset = self.integer(&fields, "offset").unwrap_or_else(|| RamBlock::offset_behind(&blocks));
            let room = self.integer(&fields, "room").unwrap_or(0);
            let left = RAM_BYTES_MIN / PAGE_SIZE + room <= total && pages.is_none_or(|pages| room < pages);
            let last = index + 1 == count && self.virtio_mem_pages.is_none();
            if room > 0 && !(last && left) {
                let message = "a block that cannot have `room`";
                let label = if left {
                    "only the last block grows, and virtio-mem is behind all"
                } else {
                    "too little is left of the block, or of the guest's memory"
                };
                self.report(Diagnostic::error(fields.span_of("room"), message).label(label));
            }
            let ignored = self.flag(&fields, "ignored").unwrap_or(false);
            let (Some(name), Some(pages)) = (name, pages) else {
                if fields.get("pages").is_none() {
                    let message = "a block without `pages`";
                    self.report(Diagnostic::error(fields.span.clone(), message).label("only the last takes what is left, if there is any"));
                }
                continue;
            };
            taken += pages;
            let block = RamBlock { name, pages, offset, room, ignored };
            if let Some(other) = blocks.iter().find(|other| other.overlaps(&block) || other.name == block.name) {
                let message = format!("block {} and block {} have the same name or ram_addrs", other.name, block.name);
                self.report(Diagnostic::error(fields.span.clone(), message).label("here"));
            }
            blocks.push(block);
        }
        if taken != total && problems == self.found.len() {
            let message = format!("the blocks have {taken} pages");
            self.report(Diagnostic::error(value.span(), message).label(format!("the guest's memory has {total}, without what is plugged")));
        }
        blocks
    }
}
