//! Which instruction sets this machine has.

use std::sync::OnceLock;

/// A set of vector instructions that kernels are written for. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// What the compiler makes of plain Rust.
    Portable,
    /// AVX2, FMA and F16C: any x86 server since 2013.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 and the bf16 tile multiplication of AMX.
    Amx,
}

impl InstructionSet {
    /// The best set of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// All sets of this machine, from the least.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx]
            .into_iter()
            .filter(|&set| set <= Self::best())
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> InstructionSet {
    InstructionSet::Portable
}

#[cfg(target_arch = "x86_64")]
fn detect() -> InstructionSet {
    if !(is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c"))
    {
        return InstructionSet::Portable;
    }
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match has_avx512 {
        false => InstructionSet::Avx2,
        true if has_amx_bf16() && allow_tile_registers() => InstructionSet::Amx,
        true => InstructionSet::Avx512,
    }
}

/// CPUID leaf 7: AMX-BF16 is bit 22 and AMX-TILE bit 24 of EDX.
#[cfg(target_arch = "x86_64")]
fn has_amx_bf16() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const LEAF: u32 = 7;
    let bits = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= LEAF && __cpuid_count(LEAF, 0).edx & bits == bits
}

/// Linux gives a process the tile registers when it asks once: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
/// All its threads, later ones too, then have them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn allow_tile_registers() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call reads no memory of ours; it either grants the registers or returns an error number.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn allow_tile_registers() -> bool {
    false
}
