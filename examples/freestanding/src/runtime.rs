//! What an operating system's libraries would otherwise bring: an entry point, output, an end, and
//! the memory functions that compiled code calls by name.

use core::arch::{asm, global_asm};
use core::fmt;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("this proof makes the system calls of Linux on x86-64, and runs nowhere else");

/// Number of the system call `write`.
const WRITE: usize = 1;
/// Number of the system call `exit_group`.
const EXIT_GROUP: usize = 231;

// The kernel enters with the arguments on the stack and no return address. The stack has to be
// aligned to 16 octets where a function is called.
global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym super::main,
);

// In assembly, because a loop that copies, written in Rust, compiles to a call of memcpy.
global_asm!(
    ".globl memcpy",
    ".type memcpy, @function",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    ".globl memmove",
    ".type memmove, @function",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx", // unsigned: below only when the destination starts inside the source
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    ".globl memset",
    ".type memset, @function",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".globl memcmp",
    ".type memcmp, @function",
    ".globl bcmp",
    ".type bcmp, @function",
    "memcmp:",
    "bcmp:",
    "mov rcx, rdx",
    "xor eax, eax",
    "xor edx, edx", // leaves the flags at "equal", which is what comparing nothing comes to
    "repe cmpsb",
    "je 2f",
    "mov al, [rdi - 1]",
    "mov dl, [rsi - 1]",
    "sub edx, eax",
    "mov eax, edx",
    "2:",
    "ret",
    ".globl strlen",
    ".type strlen, @function",
    "strlen:",
    "xor eax, eax",
    "2:",
    "cmp byte ptr [rdi + rax], 0",
    "je 3f",
    "inc rax",
    "jmp 2b",
    "3:",
    "ret",
    // The prebuilt `core` has unwind tables that name it. Nothing unwinds here: panics abort.
    ".globl rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality:",
    "ud2",
);

/// A file descriptor to print to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    /// Standard output.
    Standard = 1,
    /// Standard error.
    Error = 2,
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let result: isize;
            // SAFETY: `write` reads `rest.len()` octets at `rest`, which is borrowed for as long,
            // and changes no memory; the kernel clobbers rcx and r11, which are declared.
            unsafe {
                asm!(
                    "syscall",
                    inlateout("rax") WRITE => result,
                    in("rdi") *self as usize,
                    in("rsi") rest.as_ptr(),
                    in("rdx") rest.len(),
                    lateout("rcx") _,
                    lateout("r11") _,
                    options(nostack, readonly),
                );
            }
            // Zero octets written would repeat for ever; a negative number is an error.
            let written = usize::try_from(result).ok().filter(|written| *written != 0);
            rest = written.and_then(|written| rest.get(written..)).ok_or(fmt::Error)?;
        }
        Ok(())
    }
}

/// Ends the process with `status`.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `exit_group` takes no memory and does not return.
    unsafe {
        asm!(
            "syscall",
            in("rax") EXIT_GROUP,
            in("rdi") i64::from(status),
            options(noreturn, nostack),
        );
    }
}
