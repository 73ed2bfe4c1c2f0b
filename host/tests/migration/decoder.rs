//! A decoder of the migration stream, written from the format's description (docs/devel/migration/main.rst, the comments on RAM_SAVE_FLAG_* and
//! on the multifd packet) and from nothing of the engine's: what it makes of the bytes is what a destination would hold.

use std::collections::{BTreeMap, BTreeSet};

const PAGE: usize = 4096;

/// What a destination holds: pages by block and number. What never came holds what was there before.
pub(crate) struct Image {
    pages: BTreeMap<(String, u64), Vec<u8>>,
    before: u8,
}

impl Image {
    pub(crate) fn page(&self, block: &str, page: u64) -> Vec<u8> {
        self.pages.get(&(block.to_owned(), page)).cloned().unwrap_or_else(|| vec![self.before; PAGE])
    }
}

struct Bytes<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = Result<T, String>;

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let found = self.bytes.get(self.at..self.at + count).ok_or_else(|| format!("{count} bytes at {} are not there", self.at))?;
        self.at += count;
        Ok(found)
    }

    fn number(&mut self, width: usize) -> Read<u64> {
        Ok(self.take(width)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn name(&mut self) -> Read<String> {
        let length = self.number(1)? as usize;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|error| error.to_string())
    }

    fn expect(&mut self, width: usize, wanted: u64, what: &str) -> Read<()> {
        let found = self.number(width)?;
        if found == wanted { Ok(()) } else { Err(format!("{what} is {found:#x}, not {wanted:#x}, before {}", self.at)) }
    }
}

struct Decoder<'a> {
    main: Bytes<'a>,
    channels: Vec<Bytes<'a>>,
    blocks: BTreeMap<String, u64>,
    image: Image,
    received: BTreeSet<(String, u64)>,
    block: Option<String>,
    ended: bool,
}

/// Decodes a whole stream; `before`: what each byte of the destination's memory is to begin with.
pub(crate) fn decode(main: &[u8], channels: &[Vec<u8>], before: u8) -> Read<Image> {
    let mut decoder = Decoder {
        main: Bytes { bytes: main, at: 0 },
        channels: channels.iter().map(|bytes| Bytes { bytes, at: 0 }).collect(),
        blocks: BTreeMap::new(),
        image: Image { pages: BTreeMap::new(), before },
        received: BTreeSet::new(),
        block: None,
        ended: false,
    };
    decoder.main.expect(4, 0x5145_564d, "the magic")?;
    decoder.main.expect(4, 3, "the version")?;
    while decoder.section()? {}
    if decoder.main.at != main.len() {
        return Err(format!("bytes behind the end, at {}", decoder.main.at));
    }
    Ok(decoder.image)
}

impl Decoder<'_> {
    /// Reads a section; `false` at the end of the file.
    fn section(&mut self) -> Read<bool> {
        let kind = self.main.number(1)?;
        if kind == 0 {
            return if self.ended { Ok(false) } else { Err("the file ends before the RAM section".to_owned()) };
        }
        let id = self.main.number(4)?;
        match kind {
            1 => {
                let name = self.main.name()?;
                self.main.expect(4, 0, "the instance")?;
                self.main.expect(4, 4, "the version of ram")?;
                if name != "ram" {
                    return Err(format!("section {name}"));
                }
                self.records()?;
            }
            2 => self.records()?,
            3 => {
                self.records()?;
                self.ended = true;
            }
            4 => {
                self.main.name()?;
                self.main.take(4 + 4 + 4)?;
            }
            _ => return Err(format!("section type {kind:#x}")),
        }
        self.main.expect(1, 0x7e, "the footer")?;
        self.main.expect(4, id, "the footer's section")?;
        Ok(true)
    }

    /// Reads records of RAM up to the end of a section.
    fn records(&mut self) -> Read<()> {
        loop {
            let header = self.main.number(8)?;
            let (flags, offset) = (header & 0xfff, header & !0xfff);
            match flags & !0x20 {
                0x10 => return Ok(()),
                0x04 => self.list(offset)?,
                0x200 => self.flush()?,
                kind @ (0x02 | 0x08 | 0x40) => {
                    if flags & 0x20 == 0 {
                        self.block = Some(self.main.name()?);
                    }
                    let block = self.block.clone().ok_or("a record goes on with no block")?;
                    let at = self.place(&block, offset)?;
                    self.page(kind, at)?;
                }
                kind => return Err(format!("flags {kind:#x}")),
            }
        }
    }

    fn list(&mut self, total: u64) -> Read<()> {
        let mut left = total;
        while left > 0 {
            let name = self.main.name()?;
            let length = self.main.number(8)?;
            left = left.checked_sub(length).ok_or("the blocks are larger than all of them")?;
            self.blocks.insert(name, length);
        }
        Ok(())
    }

    fn place(&self, block: &str, offset: u64) -> Read<(String, u64)> {
        match self.blocks.get(block) {
            Some(length) if offset < *length => Ok((block.to_owned(), offset / PAGE as u64)),
            Some(_) => Err(format!("offset {offset:#x} is outside of {block}")),
            None => Err(format!("no block {block}")),
        }
    }

    fn page(&mut self, kind: u64, at: (String, u64)) -> Read<()> {
        let bytes = match kind {
            0x02 => vec![self.main.number(1)? as u8; PAGE],
            0x08 => self.main.take(PAGE)?.to_vec(),
            _ => {
                self.main.expect(1, 1, "the encoding")?;
                let length = self.main.number(2)? as usize;
                let mut page = self.image.page(&at.0, at.1);
                apply(&mut Bytes { bytes: self.main.take(length)?, at: 0 }, &mut page)?;
                page
            }
        };
        self.received.insert(at.clone());
        self.image.pages.insert(at, bytes);
        Ok(())
    }

    /// Every channel is read up to its next barrier.
    fn flush(&mut self) -> Read<()> {
        for channel in 0..self.channels.len() {
            while !self.packet(channel)? {}
        }
        Ok(())
    }

    /// Reads a packet; returns whether it is a barrier.
    fn packet(&mut self, channel: usize) -> Read<bool> {
        let bytes = &mut self.channels[channel];
        bytes.expect(4, 0x1122_3344, "the packet's magic")?;
        bytes.expect(4, 1, "the packet's version")?;
        let flags = bytes.number(4)?;
        let most = bytes.number(4)?;
        let (normal, size) = (bytes.number(4)?, bytes.number(4)?);
        bytes.number(8)?;
        let zeros = bytes.number(4)?;
        bytes.take(4 + 3 * 8)?;
        let name: Vec<u8> = bytes.take(256)?.iter().copied().take_while(|byte| *byte != 0).collect();
        let name = String::from_utf8(name).map_err(|error| error.to_string())?;
        if normal + zeros > most || size != normal * PAGE as u64 {
            return Err(format!("a packet of {normal} and {zeros} pages, {size} bytes"));
        }
        let offsets = (0..normal + zeros).map(|_| bytes.number(8)).collect::<Read<Vec<u64>>>()?;
        let data = bytes.take(size as usize)?;
        for (index, offset) in offsets.into_iter().enumerate() {
            let at = self.place(&name, offset)?;
            let first = self.received.insert(at.clone());
            match data.chunks_exact(PAGE).nth(index) {
                Some(page) => {
                    self.image.pages.insert(at, page.to_vec());
                }
                // The first zeros of a page are taken to be there.
                None if first => {}
                None => {
                    self.image.pages.insert(at, vec![0; PAGE]);
                }
            }
        }
        Ok(flags & 1 == 1)
    }
}

/// Applies a difference: so many bytes stay, so many are new, and again.
fn apply(runs: &mut Bytes<'_>, page: &mut [u8]) -> Read<()> {
    let length = |runs: &mut Bytes<'_>| -> Read<usize> {
        let mut length = 0;
        for shift in [0, 7] {
            let byte = runs.number(1)?;
            length |= (byte as usize & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(length);
            }
        }
        Err("a length of more than two bytes".to_owned())
    };
    let mut at = 0;
    while runs.at < runs.bytes.len() {
        at += length(runs)?;
        let new = length(runs)?;
        let bytes = runs.take(new)?;
        page.get_mut(at..at + new).ok_or("a run leaves the page")?.copy_from_slice(bytes);
        at += new;
    }
    Ok(())
}
