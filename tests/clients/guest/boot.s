# The first sector of a disk: reads three others through the BIOS, writes them elsewhere, reads them
# from there and compares, and tells the serial port.
    .intel_syntax noprefix
    .code16
    .globl _start
_start:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    cld
    mov drive, dl
    lea si, started
    call say
    mov ah, 0x42                # extended read
    lea si, from
    call disk
    mov ax, 0x4300              # extended write
    lea si, to
    call disk
    mov ah, 0x42
    lea si, back
    call disk
    mov si, 0x8000
    mov di, 0x9000
    mov cx, 3 * 512
    repe cmpsb
    jne failed
    lea si, same
    jmp last
failed:
    lea si, wrong
last:
    call say
stop:
    hlt
    jmp stop

disk:
    mov dl, drive
    int 0x13
    jc failed
    ret

say:
    lodsb
    test al, al
    jz said
    mov ah, al
    mov dx, 0x3fd
busy:
    in al, dx
    test al, 0x20
    jz busy
    mov dx, 0x3f8
    mov al, ah
    out dx, al
    jmp say
said:
    ret

# Packets as INT 13h takes them: its size, sectors, offset and segment of memory, LBA.
from:
    .word 16, 3, 0x8000, 0
    .quad 2
to:
    .word 16, 3, 0x8000, 0
    .quad 10
back:
    .word 16, 3, 0x9000, 0
    .quad 10
drive:
    .byte 0
started:
    .asciz "boot sector runs\r\n"
same:
    .asciz "read, written, compared\r\n"
wrong:
    .asciz "not what was written\r\n"
    .org 510
    .word 0xaa55
