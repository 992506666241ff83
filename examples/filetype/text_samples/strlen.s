    .file   "strlen.c"
    .text
    .globl  length
    .type   length, @function
length:
    pushq   %rbp
    movq    %rsp, %rbp
    xorl    %eax, %eax
.L2:
    cmpb    $0, (%rdi,%rax)
    je      .L1
    addq    $1, %rax
    jmp     .L2
.L1:
    popq    %rbp
    ret
    .size   length, .-length
    .section .rodata
.LC0:
    .string "ebb and flow"
    .section .note.GNU-stack,"",@progbits
