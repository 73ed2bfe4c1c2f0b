//! Builds what the emulator executes: the guest's image, and the small test guest of the vCPU's own tests and benches.
//!
//! `$RUSTC` is called directly, not through cargo: no lock, no profile, no `RUSTFLAGS` and no wrapper reaches the images, so that their
//! bytes depend on the sources and the pinned compiler alone. The linker is the one that comes with the compiler.
//! The fingerprint of the build, by which results of a search know who made them, is made here, too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use xxhash_rust::xxh3::Xxh3;

/// What the images are made from.
const IMAGE_INPUTS: [&str; 5] = ["guest/src", "guest/wire/src", "emu/src/vcpu/testguest", "emu/link.ld", "emu/build.rs"];
/// What a run depends on beside the guest's image.
const RUN_INPUTS: [&str; 4] = ["guest/wire/src", "host/src", "emu/src", "Cargo.lock"];

/// Compiles images from one workspace into one directory.
struct Compiler {
    rustc: PathBuf,
    workspace: PathBuf,
    out: PathBuf,
}

/// A library that an image links.
struct Library {
    name: &'static str,
    path: PathBuf,
}

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = manifest.parent().expect("the crate stands in the workspace").to_path_buf();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let rustc = PathBuf::from(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    for input in IMAGE_INPUTS.iter().chain(&RUN_INPUTS) {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    let inputs = fingerprint(&workspace, &IMAGE_INPUTS);
    let (guest, test_guest) = (out.join("lostpage-guest.elf"), out.join("testguest.elf"));
    // Most edits leave the guest as it is, and its images take longer than all else here.
    let stamp = out.join("images.stamp");
    let made_by = format!("{} {inputs}", rustc.display());
    if fs::read_to_string(&stamp).ok().as_deref() != Some(made_by.as_str()) || !guest.exists() || !test_guest.exists() {
        // A compilation that fails leaves images of no known inputs.
        let _ = fs::remove_file(&stamp);
        compile(&Compiler { rustc, workspace: workspace.clone(), out });
        fs::write(&stamp, made_by).expect("OUT_DIR is writable");
    }
    println!("cargo::rustc-env=LOSTPAGE_TEST_GUEST={}", test_guest.display());
    println!("cargo::rustc-env=LOSTPAGE_GUEST={}", guest.display());
    let mut hash = Xxh3::new();
    hash.update(&fs::read(&guest).expect("the image that was just compiled"));
    hash.update(fingerprint(&workspace, &RUN_INPUTS).as_bytes());
    println!("cargo::rustc-env=LOSTPAGE_BUILD={:032x}", hash.digest128());
}

/// Compiles the images.
fn compile(compiler: &Compiler) {
    let wire = compiler.library("wire", "guest/wire/src/lib.rs", &[]);
    compiler.image("testguest", "emu/src/vcpu/testguest/main.rs", &[&wire]);
    let guest = compiler.library("guest", "guest/src/lib.rs", &[&wire]);
    compiler.image("lostpage-guest", "guest/src/main.rs", &[&wire, &guest]);
}

/// Returns a hash of files and folders: of their paths in the workspace and their contents.
fn fingerprint(workspace: &Path, inputs: &[&str]) -> String {
    let mut files = Vec::new();
    for input in inputs {
        collect(&workspace.join(input), &mut files);
    }
    files.sort();
    let mut hash = Xxh3::new();
    for file in files {
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("failed to read {}: {error}", file.display()));
        let path = file.strip_prefix(workspace).expect("collected under the workspace").to_string_lossy().replace('\\', "/");
        hash.update(format!("{path} {}\n", bytes.len()).as_bytes());
        hash.update(&bytes);
    }
    format!("{:032x}", hash.digest128())
}

/// Adds a file, or all files under a folder.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if !path.is_dir() {
        return files.push(path.to_path_buf());
    }
    for entry in fs::read_dir(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display())) {
        collect(&entry.expect("an entry of a folder").path(), files);
    }
}

impl Compiler {
    /// Compiles a library for the image, with `--cfg image`.
    fn library(&self, name: &'static str, source: &str, libraries: &[&Library]) -> Library {
        let path = self.out.join(format!("lib{name}.rlib"));
        let mut command = self.command(source, &path, libraries);
        command.args(["--crate-type", "rlib", "--crate-name", name]);
        run(command, source);
        Library { name, path }
    }

    /// Compiles and links one image.
    fn image(&self, name: &str, source: &str, libraries: &[&Library]) {
        let path = self.out.join(format!("{name}.elf"));
        let script = self.workspace.join("emu/link.ld");
        let mut command = self.command(source, &path, libraries);
        command.args(["--crate-type", "bin", "--crate-name", &name.replace('-', "_")]);
        command.args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld", "-Clink-arg=-nostdlib", "-Clink-arg=-static"]);
        command.args(["-Clink-arg=--build-id=none", "-Clink-arg=--gc-sections"]);
        command.arg(format!("-Clink-arg=-T{}", script.display()));
        run(command, source);
    }

    /// What every part of an image is compiled with. No AVX, because the engine executes it wrongly; no red zone, because interrupts
    /// push on the running stack; frame pointers, because backtraces follow them.
    fn command(&self, source: &str, output: &Path, libraries: &[&Library]) -> Command {
        let mut command = Command::new(&self.rustc);
        command.current_dir(&self.workspace).env_remove("RUSTC_BOOTSTRAP");
        command.args(["--edition", "2024", "--target", "x86_64-unknown-linux-gnu", "--cfg", "image", "--check-cfg", "cfg(image)"]);
        command.args(["-Copt-level=2", "-Cpanic=abort", "-Crelocation-model=static", "-Cno-redzone=yes", "-Ctarget-cpu=x86-64"]);
        command.args(["-Ccodegen-units=1", "-Cforce-frame-pointers=yes", "-Cdebuginfo=0", "-Coverflow-checks=yes"]);
        command.arg(format!("--remap-path-prefix={}=.", self.workspace.display()));
        command.arg(format!("--remap-path-prefix={}=out", self.out.display()));
        for library in libraries {
            command.arg("--extern").arg(format!("{}={}", library.name, library.path.display()));
        }
        command.arg("-L").arg(&self.out).arg("-o").arg(output).arg(source);
        command
    }
}

fn run(mut command: Command, source: &str) {
    let status = command.status().unwrap_or_else(|error| panic!("failed to start the compiler for {source}: {error}"));
    assert!(status.success(), "failed to compile {source} for the guest: {status}");
}
