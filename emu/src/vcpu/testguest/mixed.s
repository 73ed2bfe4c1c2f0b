# Every kind of instruction that counts or exits in its own way, rdi rounds, on data at rsi.
.text
.globl mixed
mixed:
    mov r13, rdi
    mov r12, rsi
    movabs rbp, {lapic}
    movabs r11, {clock}
    xor r15d, r15d
1:  mov rsi, r12
    lea rdi, [r12+0x800]
    mov ecx, r15d
    and ecx, 31
    rep movsb
    xor ecx, ecx
    rep stosq
    mov ecx, 3
    rep stosd
    mov ecx, 5
    mov rsi, r12
    lea rdi, [r12+16]
    repe cmpsb
    setz byte ptr [r12+0x100]
    sti
    nop
    cli
    mov eax, ss
    mov ss, ax
    inc r14
    pause
    mov rax, [r12+0x200]
    lea rbx, [rax+r15]
    lock cmpxchg [r12+0x200], rbx
    lock xadd [r12+0x208], rbx
    lock inc dword ptr [r12+0xffe]
    pushf
    popf
    mov dx, 0x10
    in al, dx
    mov [r12+0x210], al
    mov eax, r15d
    out 0x20, eax
    mov edi, r15d
    mov esi, r14d
    mov edx, 5
    call trace
    mov eax, r15d
    out 0xe9, eax
    inc eax
    mov [rbp+0xb0], eax
    mov eax, [r11]
    add r10, rax
    mov dword ptr [rbp+0x380], 77
    movzx eax, byte ptr [rbp+0x20]
    add r10, rax
    cmp dword ptr [rbp+0x30], 5
    seta byte ptr [r12+0x218]
    mov rax, [rbp+0x40]
    xor r10, rax
    call 2f
    std
    lea rdi, [r12+0x900]
    mov ecx, 4
    rep stosb
    cld
    cvtsi2sd xmm0, r15
    addsd xmm1, xmm0
    sqrtsd xmm2, xmm1
    movups [r12+0xff9], xmm2
    fild qword ptr [r12+0x200]
    fsqrt
    fstp qword ptr [r12+0x308]
    inc r15
    cmp r15, r13
    jne 1b
    hlt
2:  mov rax, r15
    xor edx, edx
    mov ecx, 7
    div rcx
    add [r12+0x400+rdx*8], rax
    ret
