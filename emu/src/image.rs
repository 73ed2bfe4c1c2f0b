//! The guest's image: an ELF that `emu/build.rs` compiled, taken apart into what the vCPU loads and what a report names.

use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _, SymbolKind, elf};
use wire::platform::{IMAGE_END, IMAGE_FILL, PAGE_SIZE};

/// The guest, as built with this emulator.
static GUEST: &[u8] = include_bytes!(env!("LOSTPAGE_GUEST"));
/// The loops that the vCPU's tests and benches run.
static TEST_GUEST: &[u8] = include_bytes!(env!("LOSTPAGE_TEST_GUEST"));

/// One loadable part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// First address, a multiple of the page size.
    pub address: u64,
    /// Initial content.
    pub bytes: Vec<u8>,
    /// Size in memory, bytes; what `bytes` does not fill is zero.
    pub mem_bytes: u64,
    /// Whether guest code may be executed here. Such a segment is never writable.
    pub execute: bool,
    /// Whether guest code may store here.
    pub write: bool,
}

impl Segment {
    /// Returns the address behind the segment's last byte in memory.
    pub fn end(&self) -> u64 {
        self.address + self.mem_bytes
    }
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// First address.
    pub address: u64,
    /// Size, bytes; 0 when the assembler gave none.
    pub size_bytes: u64,
    /// Name as people read it.
    pub name: String,
}

/// A guest ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Loadable parts by address; exactly one is executable.
    pub segments: Vec<Segment>,
    /// Where every vCPU starts.
    pub entry: u64,
    /// Functions and labels in text, by address.
    pub functions: Vec<Symbol>,
    /// Data objects, by address.
    pub objects: Vec<Symbol>,
}

impl Image {
    /// Returns the guest that this emulator was built with.
    pub fn guest() -> Image {
        let mut image = Image::parse(GUEST).unwrap_or_else(|error| panic!("failed to load the built-in guest: {error}"));
        image.fill();
        image
    }

    /// Fills the image's place up to its end, so that a larger image changes nothing of what lies behind it, nor how many pages hold data.
    fn fill(&mut self) {
        let address = self.end();
        let mem_bytes = IMAGE_END.checked_sub(address).expect("the image fits into its place");
        let bytes = vec![IMAGE_FILL; usize::try_from(mem_bytes).expect("less than a MiB")];
        self.segments.push(Segment { address, bytes, mem_bytes, execute: false, write: false });
    }

    /// Returns the loops that the vCPU's tests and benches run; see `emu/src/vcpu/testguest`.
    pub fn test_guest() -> Image {
        Image::parse(TEST_GUEST).unwrap_or_else(|error| panic!("failed to load the built-in test guest: {error}"))
    }

    /// Returns an image of bare machine code at an address, entered at its first byte.
    pub fn from_code(address: u64, code: &[u8]) -> Image {
        assert!(address.is_multiple_of(PAGE_SIZE), "code at {address:#x} does not start a page");
        let text = Segment { address, bytes: code.to_vec(), mem_bytes: code.len() as u64, execute: true, write: false };
        Image { segments: vec![text], entry: address, functions: Vec::new(), objects: Vec::new() }
    }

    /// Takes an ELF apart. What is wrong with it is an error, fit for "failed to …: ".
    pub fn parse(bytes: &[u8]) -> Result<Image, String> {
        let file: ElfFile64<'_, Endianness> = ElfFile64::parse(bytes).map_err(|error| error.to_string())?;
        let mut segments = Vec::new();
        for header in file.elf_program_headers() {
            if header.p_type(Endianness::Little) == elf::PT_LOAD && header.p_memsz(Endianness::Little) > 0 {
                segments.push(segment(header, bytes)?);
            }
        }
        segments.sort_by_key(|segment: &Segment| segment.address);
        if segments.windows(2).any(|pair| pair[0].end() > pair[1].address) {
            return Err("segments overlap".to_owned());
        }
        if segments.iter().filter(|segment| segment.execute).count() != 1 {
            return Err("not exactly one executable segment".to_owned());
        }
        let entry = file.elf_header().e_entry(Endianness::Little);
        Ok(Image { segments, entry, functions: symbols(&file, SymbolKind::Text), objects: symbols(&file, SymbolKind::Data) })
    }

    /// Returns the executable segment.
    pub fn text(&self) -> &Segment {
        self.segments.iter().find(|segment| segment.execute).expect("an image has text")
    }

    /// Returns the first address that is a multiple of the page size and behind all segments.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(Segment::end).max().expect("an image has text").next_multiple_of(PAGE_SIZE)
    }

    /// Returns the address of a function or data object.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.functions.iter().chain(&self.objects).find(|symbol| symbol.name == name).map(|symbol| symbol.address)
    }

    /// Returns an address as `function+0x12`, or as a bare number when it lies in no function.
    pub fn symbolise(&self, address: u64) -> String {
        let text = self.text();
        let behind = self.functions.partition_point(|symbol| symbol.address <= address);
        match behind.checked_sub(1).map(|index| &self.functions[index]) {
            Some(symbol) if (text.address..text.end()).contains(&address) => match address - symbol.address {
                0 => symbol.name.clone(),
                offset => format!("{}+{offset:#x}", symbol.name),
            },
            _ => format!("{address:#x}"),
        }
    }
}

fn segment(header: &elf::ProgramHeader64<Endianness>, file: &[u8]) -> Result<Segment, String> {
    let endian = Endianness::Little;
    let address = header.p_vaddr(endian);
    let (execute, write) = (header.p_flags(endian) & elf::PF_X != 0, header.p_flags(endian) & elf::PF_W != 0);
    if execute && write {
        return Err(format!("segment at {address:#x} is writable and executable"));
    }
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(format!("segment at {address:#x} does not start a page"));
    }
    let bytes = header.data(endian, file).map_err(|()| format!("segment at {address:#x} is cut off"))?.to_vec();
    let mem_bytes = header.p_memsz(endian);
    if mem_bytes < bytes.len() as u64 {
        return Err(format!("segment at {address:#x} is smaller in memory than in the file"));
    }
    Ok(Segment { address, bytes, mem_bytes, execute, write })
}

/// Symbols of one kind by address. The assembler's labels have no type: those with a name count as functions when they lie in code.
fn symbols(file: &ElfFile64<'_, Endianness>, kind: SymbolKind) -> Vec<Symbol> {
    let text = file.elf_program_headers().iter().find(|header| header.p_flags(Endianness::Little) & elf::PF_X != 0);
    let in_text = |address: u64| {
        text.is_some_and(|text| {
            let start = text.p_vaddr(Endianness::Little);
            (start..start + text.p_memsz(Endianness::Little)).contains(&address)
        })
    };
    let mut symbols: Vec<Symbol> = file
        .symbols()
        .filter(|symbol| symbol.is_definition() || symbol.kind() == SymbolKind::Unknown)
        .filter(|symbol| symbol.address() != 0 && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data | SymbolKind::Unknown))
        .filter(|symbol| in_text(symbol.address()) == (kind == SymbolKind::Text))
        .filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            Some(Symbol { address: symbol.address(), size_bytes: symbol.size(), name: format!("{:#}", rustc_demangle::demangle(name)) })
        })
        .collect();
    symbols.sort_by(|a, b| (a.address, &a.name).cmp(&(b.address, &b.name)));
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_images_are_linked_where_the_platform_says() {
        for image in [Image::guest(), Image::test_guest()] {
            assert_eq!(image.segments[0].address, wire::platform::IMAGE);
            assert_eq!(image.symbol("_start"), Some(image.entry));
            assert!(image.end() <= wire::platform::IMAGE_END_MAX);
        }
    }

    #[test]
    fn an_address_is_named_by_the_function_around_it() {
        let image = Image::test_guest();
        let start = image.symbol("atomic_add").expect("symbol");
        assert_eq!(image.symbolise(start), "atomic_add");
        assert_eq!(image.symbolise(start + 1), "atomic_add+0x1");
        assert_eq!(image.symbolise(0), "0x0");
        assert_eq!(image.symbolise(image.end()), format!("{:#x}", image.end()));
    }

    #[test]
    fn names_are_without_the_compilers_hash() {
        let image = Image::test_guest();
        assert!(image.functions.iter().all(|symbol| !symbol.name.contains("17h")), "{:?}", image.functions);
    }

    #[test]
    fn a_file_that_is_not_elf_is_an_error() {
        assert!(Image::parse(b"not an image, and long enough to hold a header of an image, were it one").is_err());
    }
}
