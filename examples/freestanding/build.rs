//! Links the binary without start files and without libc.

fn main() {
    // From here and not from RUSTFLAGS, which would hit build scripts too. rustc itself passes
    // `-pie` earlier on the line; the later `-no-pie` wins.
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
