# Entry, runtime functions that the compiler may call, and loops that must be exactly these instructions.
.section .text.start, "ax"
.globl _start
_start:
    call rax
1:  hlt
    jmp 1b

# What a test may call: keeps the linker from dropping it.
.section .rodata.entries, "a"
    .quad allocator, copies, atomic_add, ticket_worker, tracepoints, tight_store, touch_pages, irq_counter, mixed, GUARDED, irq_count
.text

.globl trace
trace:
    mov eax, edx
    push rdx
    mov edx, {port}
    call 2f
    pop rdx
    ret
2:  out dx, eax
    ret

# rdi times: a store and an add, to [rsi].
.globl tight_store
tight_store:
    xor eax, eax
3:  add rax, rdi
    mov [rsi], rax
    dec rdi
    jnz 3b
    ret

# rdi times: reads and writes a word behind every page from rsi, rdx pages.
.globl touch_pages
touch_pages:
    mov rcx, rdx
    mov r8, rsi
4:  add [r8], rdi
    add r8, 4096
    dec rcx
    jnz 4b
    dec rdi
    jnz touch_pages
    ret

.globl copy_words
copy_words:
    mov rcx, [rsi]
    mov [rdi], rcx
    add rsi, 8
    add rdi, 8
    dec rdx
    jnz copy_words
    ret

.globl memcpy
.globl memmove
.globl memset
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jb 7f
memcpy:
    mov rax, rdi
5:  test rdx, rdx
    jz 6f
    mov cl, [rsi]
    mov [rdi], cl
    inc rsi
    inc rdi
    dec rdx
    jmp 5b
6:  ret
7:  mov rax, rdi
8:  test rdx, rdx
    jz 9f
    mov cl, [rsi+rdx-1]
    mov [rdi+rdx-1], cl
    dec rdx
    jmp 8b
9:  ret
memset:
    mov rax, rdi
10: test rdx, rdx
    jz 11f
    mov [rdi], sil
    inc rdi
    dec rdx
    jmp 10b
11: ret

# Loads a GDT and an IDT whose gate 0x20 counts, then sums rdi numbers with interrupts enabled; sum in rdx, count at irq_count.
.globl irq_counter
irq_counter:
    lgdt [irq_gdt_pointer]
    push 8
    lea rax, [rip+12f]
    push rax
    retfq
12: mov eax, 16
    mov ss, ax
    lea rax, [rip+irq_handler]
    mov rcx, offset irq_idt + 0x200
    mov [rcx], ax
    mov word ptr [rcx+2], 8
    mov word ptr [rcx+4], 0x8e00
    shr rax, 16
    mov [rcx+6], ax
    shr rax, 16
    mov [rcx+8], eax
    mov dword ptr [rcx+12], 0
    lidt [irq_idt_pointer]
    sti
    xor ecx, ecx
    xor edx, edx
13: inc rcx
    lea rdx, [rdx+rcx*2]
    push rcx
    pop rbx
    add [irq_sum], rbx
    cmp rcx, rdi
    jne 13b
    cli
    hlt
irq_handler:
    push rax
    inc qword ptr [irq_count]
    pop rax
    iretq

.section .data.irq, "aw"
.balign 16
irq_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
irq_gdt_pointer:
    .short 23
    .quad irq_gdt
irq_idt_pointer:
    .short 4095
    .quad irq_idt
.globl irq_count
irq_count:
    .quad 0
irq_sum:
    .quad 0
.balign 4096
irq_idt:
    .zero 4096
.text
