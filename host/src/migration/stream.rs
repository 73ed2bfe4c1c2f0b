//! The stream in QEMU's format: what the records of the main channel and the items of the others look like as bytes.
//!
//! docs/devel/migration/main.rst (sections), migration/ram.c (RAM_SAVE_FLAG_*), migration/multifd.h (packets). Numbers are big-endian. A page's record
//! begins with its offset in its block, whose low bits say what follows; the block's name stands behind it unless the record before was of the same
//! block. Differs: the device's section holds the command id alone; what a method compresses stands as it is; a file of pages is no stream.

use std::sync::Arc;

use crate::event::{CmdId, Pfn};
use crate::migration::encoding::{Compression, Content};
use crate::migration::multifd::{Item, PACKET_PAGES_MAX};
use crate::migration::wire::Record;
use crate::page::PageContents;

/// "QEVM".
pub const FILE_MAGIC: u32 = 0x5145_564d;
/// The version of the file.
pub const FILE_VERSION: u32 = 3;

mod section {
    pub(super) const EOF: u8 = 0x00;
    pub(super) const START: u8 = 0x01;
    pub(super) const PART: u8 = 0x02;
    pub(super) const END: u8 = 0x03;
    pub(super) const FULL: u8 = 0x04;
    pub(super) const FOOTER: u8 = 0x7e;
}

mod flag {
    pub(super) const ZERO: u64 = 0x02;
    pub(super) const MEM_SIZE: u64 = 0x04;
    pub(super) const PAGE: u64 = 0x08;
    pub(super) const EOS: u64 = 0x10;
    pub(super) const CONTINUE: u64 = 0x20;
    pub(super) const XBZRLE: u64 = 0x40;
    pub(super) const MULTIFD_FLUSH: u64 = 0x200;
}

const RAM_SECTION: u32 = 2;
const RAM_VERSION: u32 = 4;
const DEVICE_SECTION: u32 = 3;
/// Says that a difference follows.
const ENCODING_XBZRLE: u8 = 1;
const PACKET_MAGIC: u32 = 0x1122_3344;
const PACKET_VERSION: u32 = 1;
const PACKET_SYNC: u32 = 1;
const BLOCK_NAME_BYTES: usize = 256;

/// A block of RAM as the stream knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamBlock {
    /// Its name.
    pub name: String,
    /// Its first page in the guest.
    pub first: Pfn,
    /// Its length, pages.
    pub pages: u64,
}

/// The main channel's bytes, and those of the others.
#[derive(Debug, Clone)]
pub struct StreamWriter {
    blocks: Vec<StreamBlock>,
    compression: Compression,
    main: Vec<u8>,
    /// The block of the last record.
    last_block: Option<usize>,
    /// A section is open.
    open: bool,
    channels: Vec<ChannelWriter>,
    packets: u64,
}

/// A channel's bytes, and the packet that is being made.
#[derive(Debug, Clone, Default)]
struct ChannelWriter {
    bytes: Vec<u8>,
    block: usize,
    data: Vec<(u64, Arc<PageContents>)>,
    zeros: Vec<u64>,
}

impl StreamWriter {
    /// Returns a stream that has its header and the list of blocks.
    pub fn new(blocks: Vec<StreamBlock>, channels: u8, compression: Compression) -> Self {
        let mut writer = Self {
            blocks,
            compression,
            main: Vec::new(),
            last_block: None,
            open: false,
            channels: vec![ChannelWriter::default(); usize::from(channels)],
            packets: 0,
        };
        writer.begin();
        writer
    }

    fn begin(&mut self) {
        self.main.extend(FILE_MAGIC.to_be_bytes());
        self.main.extend(FILE_VERSION.to_be_bytes());
        self.main.push(section::START);
        self.main.extend(RAM_SECTION.to_be_bytes());
        put_name("ram", &mut self.main);
        self.main.extend(0_u32.to_be_bytes());
        self.main.extend(RAM_VERSION.to_be_bytes());
        let total: u64 = self.blocks.iter().map(|block| block.pages << 12).sum();
        self.main.extend((total | flag::MEM_SIZE).to_be_bytes());
        for block in &self.blocks {
            put_name(&block.name, &mut self.main);
            self.main.extend((block.pages << 12).to_be_bytes());
        }
        self.open = true;
        self.close_section();
    }

    fn open_section(&mut self, kind: u8) {
        if !self.open {
            self.main.push(kind);
            self.main.extend(RAM_SECTION.to_be_bytes());
            (self.open, self.last_block) = (true, None);
        }
    }

    /// Ends a slice's section, if it has one.
    pub fn close_section(&mut self) {
        if std::mem::take(&mut self.open) {
            self.main.extend(flag::EOS.to_be_bytes());
            self.main.push(section::FOOTER);
            self.main.extend(RAM_SECTION.to_be_bytes());
        }
    }

    /// Writes a record of the main channel.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Page { pfn, content } => self.page(*pfn, content),
            Record::Flush => {
                self.open_section(section::PART);
                self.main.extend(flag::MULTIFD_FLUSH.to_be_bytes());
            }
            Record::Device { id, .. } => self.device(*id),
            Record::Discard { .. } | Record::End => unreachable!("postcopy's records are not written here"),
        }
    }

    fn page(&mut self, pfn: Pfn, content: &Content) {
        self.open_section(section::PART);
        match content {
            Content::Zero => {
                self.header(pfn, flag::ZERO);
                self.main.push(0);
            }
            Content::Data(contents) => {
                self.header(pfn, flag::PAGE);
                self.main.extend(contents.bytes());
            }
            Content::Delta(runs) => {
                self.header(pfn, flag::XBZRLE);
                self.main.push(ENCODING_XBZRLE);
                let len = u16::try_from(runs.len()).expect("a difference is no longer than a page");
                self.main.extend(len.to_be_bytes());
                self.main.extend(runs.iter());
            }
            Content::Cached(_) | Content::Same => unreachable!("{content:?} does not leave the sender"),
        }
    }

    fn header(&mut self, pfn: Pfn, flags: u64) {
        let (index, offset) = self.place(pfn);
        let again = self.last_block.replace(index) == Some(index);
        self.main.extend((offset | flags | if again { flag::CONTINUE } else { 0 }).to_be_bytes());
        if !again {
            put_name(&self.blocks[index].name, &mut self.main);
        }
    }

    /// Returns a page's block and its offset there, bytes.
    fn place(&self, pfn: Pfn) -> (usize, u64) {
        let holds = |block: &StreamBlock| (block.first.0..block.first.0 + block.pages).contains(&pfn.0);
        let index = self.blocks.iter().position(holds).expect("each page has a block");
        (index, (pfn.0 - self.blocks[index].first.0) << 12)
    }

    fn device(&mut self, id: CmdId) {
        self.close_section();
        self.open_section(section::END);
        self.close_section();
        self.main.push(section::FULL);
        self.main.extend(DEVICE_SECTION.to_be_bytes());
        put_name("virtio-balloon", &mut self.main);
        self.main.extend(0_u32.to_be_bytes());
        self.main.extend(1_u32.to_be_bytes());
        self.main.extend(id.0.to_be_bytes());
        self.main.push(section::FOOTER);
        self.main.extend(DEVICE_SECTION.to_be_bytes());
        self.main.push(section::EOF);
    }

    /// Writes what arrives from a channel: pages are collected into packets, which a barrier ends.
    pub fn item(&mut self, channel: u8, item: &Item) {
        let at = usize::from(channel);
        match item {
            Item::Page { pfn, content } => {
                let (block, offset) = self.place(*pfn);
                let writer = &self.channels[at];
                let count = writer.data.len() + writer.zeros.len();
                // The data of a packet stand before its zeros, and all are of one block.
                let breaks = !content.is_zero() && !writer.zeros.is_empty();
                if count == PACKET_PAGES_MAX || count > 0 && (breaks || writer.block != block) {
                    self.packet(at, 0);
                }
                let writer = &mut self.channels[at];
                writer.block = block;
                match content {
                    Content::Zero => writer.zeros.push(offset),
                    Content::Data(contents) => writer.data.push((offset, Arc::clone(contents))),
                    Content::Delta(_) | Content::Cached(_) | Content::Same => unreachable!("channels carry no differences"),
                }
            }
            Item::Barrier { .. } => self.packet(at, PACKET_SYNC),
        }
    }

    /// Ends a channel's packet.
    fn packet(&mut self, channel: usize, flags: u32) {
        let method: u32 = match self.compression {
            Compression::None => 0,
            Compression::Zlib => 1,
            Compression::Qpl => 4,
        };
        let writer = &mut self.channels[channel];
        let (data, zeros) = (std::mem::take(&mut writer.data), std::mem::take(&mut writer.zeros));
        let name = self.blocks[writer.block].name.as_bytes();
        assert!(name.len() < BLOCK_NAME_BYTES, "a block's name of {} bytes", name.len());
        let bytes = &mut writer.bytes;
        let data_bytes = data.len() as u32 * 4096;
        for word in [PACKET_MAGIC, PACKET_VERSION, flags | method << 1, PACKET_PAGES_MAX as u32, data.len() as u32, data_bytes] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(self.packets.to_be_bytes());
        self.packets += 1;
        bytes.extend((zeros.len() as u32).to_be_bytes());
        bytes.extend([0; 4 + 3 * 8]);
        bytes.extend(name);
        bytes.resize(bytes.len() + BLOCK_NAME_BYTES - name.len(), 0);
        let offsets = data.iter().map(|(offset, _)| *offset).chain(zeros);
        offsets.for_each(|offset| bytes.extend(offset.to_be_bytes()));
        data.iter().for_each(|(_, contents)| bytes.extend(contents.bytes()));
    }

    /// Returns the bytes of the main channel and of the others.
    pub fn finish(mut self) -> (Vec<u8>, Vec<Vec<u8>>) {
        self.close_section();
        for channel in 0..self.channels.len() {
            let ChannelWriter { data, zeros, .. } = &self.channels[channel];
            if !data.is_empty() || !zeros.is_empty() {
                self.packet(channel, 0);
            }
        }
        (self.main, self.channels.into_iter().map(|channel| channel.bytes).collect())
    }
}

fn put_name(name: &str, to: &mut Vec<u8>) {
    to.push(u8::try_from(name.len()).expect("a name of up to 255 bytes"));
    to.extend(name.as_bytes());
}
