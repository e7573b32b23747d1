//! Device rules on cgroup version 2: a small BPF program that the kernel asks for every opening
//! and making of a device node.
//!
//! The list reads as in version 1, where a later rule overrides an earlier one; the program
//! therefore tests the last rule first and the first match decides.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{Mode, OFlags};

use crate::error::{IoContext, RuntimeError, SystemContext};

/// Numbers of `linux/bpf.h`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;

/// Registers: the verdict and the request's four parts.
const R0: u8 = 0;
const R1: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

/// `to = *(u32 *)(from + offset)`.
const fn load(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}
const fn move_number(to: u8, number: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, number)
}
const fn move_register(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}
const fn and_number(to: u8, number: i32) -> Instruction {
    instruction(0x57, to, 0, 0, number)
}
const fn shift_right(to: u8, number: i32) -> Instruction {
    instruction(0x77, to, 0, 0, number)
}
/// Jumps over `offset` instructions, which is filled in when the rule is complete.
const fn jump_unless_equal(register: u8, number: i32) -> Instruction {
    instruction(0x55, register, 0, 0, number)
}
const fn jump_if_equal(register: u8, number: i32) -> Instruction {
    instruction(0x15, register, 0, 0, number)
}
const fn jump_unless_equal_register(register: u8, other: u8) -> Instruction {
    instruction(0x5d, register, other, 0, 0)
}
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// One rule in the kernel's terms; `None` matches everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

const fn always(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Rule {
    Rule { allow: true, kind: Some(kind), major, minor, access }
}

const ALL_ACCESS: i32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;

/// What every container may use, as with other runtimes: null, zero, full, random, urandom, tty,
/// console, ptmx and the pseudo terminals. Nodes may be made of any device: opening is what the
/// rules guard.
pub(super) const DEFAULTS: [Rule; 11] = [
    always(TYPE_CHAR, None, None, ACCESS_MKNOD),
    always(TYPE_BLOCK, None, None, ACCESS_MKNOD),
    always(TYPE_CHAR, Some(1), Some(3), ALL_ACCESS),
    always(TYPE_CHAR, Some(1), Some(5), ALL_ACCESS),
    always(TYPE_CHAR, Some(1), Some(7), ALL_ACCESS),
    always(TYPE_CHAR, Some(1), Some(8), ALL_ACCESS),
    always(TYPE_CHAR, Some(1), Some(9), ALL_ACCESS),
    always(TYPE_CHAR, Some(5), Some(0), ALL_ACCESS),
    always(TYPE_CHAR, Some(5), Some(1), ALL_ACCESS),
    always(TYPE_CHAR, Some(5), Some(2), ALL_ACCESS),
    always(TYPE_CHAR, Some(136), None, ALL_ACCESS),
];

impl Rule {
    pub(super) fn of(rule: &LinuxDeviceCgroup) -> Result<Self, RuntimeError> {
        let number = |number: Option<i64>| match number {
            None => Ok(None),
            Some(number) if number < 0 => Ok(None),
            Some(number) => i32::try_from(number)
                .map(Some)
                .map_err(|_| RuntimeError::Invalid(format!("device number {number}"))),
        };
        let letters = rule.access().as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm");
        let access = letters.chars().try_fold(0, |mask, letter| {
            Ok::<_, RuntimeError>(
                mask | match letter {
                    'r' => ACCESS_READ,
                    'w' => ACCESS_WRITE,
                    'm' => ACCESS_MKNOD,
                    _ => return Err(RuntimeError::Invalid(format!("device access {letters:?}"))),
                },
            )
        })?;
        Ok(Self {
            allow: rule.allow(),
            kind: match rule.typ() {
                Some(LinuxDeviceType::B) => Some(TYPE_BLOCK),
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(TYPE_CHAR),
                Some(LinuxDeviceType::P | LinuxDeviceType::A) | None => None,
            },
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access,
        })
    }

    /// File and text that say the same to the device controller of version 1.
    pub(super) fn version_one(&self) -> (&'static str, String) {
        let kind = match self.kind {
            Some(TYPE_BLOCK) => 'b',
            Some(_) => 'c',
            None => 'a',
        };
        let number =
            |number: Option<i32>| number.map_or_else(|| String::from("*"), |n| n.to_string());
        let letters = [(ACCESS_READ, 'r'), (ACCESS_WRITE, 'w'), (ACCESS_MKNOD, 'm')];
        let access: String =
            letters.iter().filter(|(bit, _)| self.access & bit != 0).map(|(_, c)| c).collect();
        let text = format!("{kind} {}:{} {access}", number(self.major), number(self.minor));
        (if self.allow { "devices.allow" } else { "devices.deny" }, text)
    }

    /// The instructions; those that jump do so past the last one.
    fn emit(&self, program: &mut Vec<Instruction>) -> Result<(), RuntimeError> {
        let start = program.len();
        if let Some(kind) = self.kind {
            program.push(jump_unless_equal(TYPE, kind));
        }
        program.push(move_register(R1, ACCESS));
        program.push(and_number(R1, self.access));
        // Permission needs every requested access, refusal any of them.
        program.push(if self.allow {
            jump_unless_equal_register(R1, ACCESS)
        } else {
            jump_if_equal(R1, 0)
        });
        if let Some(major) = self.major {
            program.push(jump_unless_equal(MAJOR, major));
        }
        if let Some(minor) = self.minor {
            program.push(jump_unless_equal(MINOR, minor));
        }
        program.push(move_number(R0, i32::from(self.allow)));
        program.push(EXIT);
        let end = program.len();
        for (at, instruction) in program.iter_mut().enumerate().skip(start) {
            if matches!(instruction.code, 0x55 | 0x15 | 0x5d) {
                instruction.offset = i16::try_from(end - at - 1)
                    .map_err(|_| RuntimeError::Invalid(String::from("a device rule too long")))?;
            }
        }
        Ok(())
    }
}

fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>, RuntimeError> {
    let mut program = vec![
        // The first word of the request holds the access in its upper and the type in its lower
        // half; then come the two numbers.
        load(TYPE, R1, 0),
        load(MAJOR, R1, 4),
        load(MINOR, R1, 8),
        move_register(ACCESS, TYPE),
        shift_right(ACCESS, 16),
        and_number(TYPE, 0xffff),
    ];
    for rule in DEFAULTS.iter().rev() {
        rule.emit(&mut program)?;
    }
    for rule in rules.iter().rev() {
        Rule::of(rule)?.emit(&mut program)?;
    }
    program.push(move_number(R0, 1));
    program.push(EXIT);
    Ok(program)
}

/// Loads the program for `rules` and attaches it to the cgroup directory.
pub(super) fn attach(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), RuntimeError> {
    let program = load_program(&compile(rules)?)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(directory, flags, Mode::empty()).context("open", directory)?;
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attributes = Attach {
        target: target.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attributes).call("bpf(BPF_PROG_ATTACH)")?;
    Ok(())
}

fn load_program(program: &[Instruction]) -> Result<OwnedFd, RuntimeError> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let count = u32::try_from(program.len())
        .map_err(|_| RuntimeError::Invalid(String::from("too many device rules")))?;
    let attributes = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let fd = bpf(PROG_LOAD, &attributes).call("bpf(BPF_PROG_LOAD)")?;
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads the stated size of the attributes; what they point to outlives
    // the call in both callers.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(value: serde_json::Value) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(value).unwrap()
    }

    /// What the program answers, computed as the kernel would.
    fn verdict(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i32 {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0_i32; 6];
        let mut at = 0;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            let jump = match i.code {
                0x61 => {
                    r[to] = context[usize::try_from(i.offset).unwrap() / 4];
                    false
                }
                0xb7 => {
                    r[to] = i.immediate;
                    false
                }
                0xbf => {
                    r[to] = r[from];
                    false
                }
                0x57 => {
                    r[to] &= i.immediate;
                    false
                }
                0x77 => {
                    r[to] >>= i.immediate;
                    false
                }
                0x55 => r[to] != i.immediate,
                0x15 => r[to] == i.immediate,
                0x5d => r[to] != r[from],
                0x95 => return r[0],
                code => panic!("unknown instruction {code:#x}"),
            };
            if jump {
                at += usize::try_from(i.offset).unwrap();
            }
        }
    }

    #[test]
    fn later_rules_override_and_the_defaults_stay() {
        let program = compile(&rules(json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
        ])))
        .unwrap();
        let answer = |kind, access, major, minor| verdict(&program, kind, access, major, minor);
        assert_eq!(answer(TYPE_CHAR, ACCESS_READ, 10, 229), 1);
        assert_eq!(answer(TYPE_CHAR, ACCESS_READ | ACCESS_WRITE, 10, 229), 1);
        assert_eq!(answer(TYPE_CHAR, ACCESS_MKNOD, 10, 229), 1);
        assert_eq!(answer(TYPE_BLOCK, ACCESS_MKNOD, 8, 0), 1);
        assert_eq!(answer(TYPE_BLOCK, ACCESS_MKNOD | ACCESS_READ, 8, 0), 0);
        assert_eq!(answer(TYPE_CHAR, ACCESS_READ, 10, 230), 0);
        assert_eq!(answer(TYPE_BLOCK, ACCESS_READ, 8, 0), 0);
        assert_eq!(answer(TYPE_BLOCK, ACCESS_READ, 1, 3), 0);
        assert_eq!(answer(TYPE_CHAR, ACCESS_WRITE, 1, 3), 1);
        assert_eq!(answer(TYPE_CHAR, ACCESS_WRITE, 136, 7), 1);
    }

    #[test]
    fn a_rule_without_numbers_means_every_device() {
        let text = |rule| Rule::of(&serde_json::from_value(rule).unwrap()).unwrap().version_one();
        assert_eq!(
            text(json!({ "allow": false, "access": "rwm" })),
            ("devices.deny", String::from("a *:* rwm"))
        );
        let fuse = json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" });
        assert_eq!(text(fuse), ("devices.allow", String::from("c 10:229 rw")));
    }

    #[test]
    fn a_partial_refusal_refuses_mixed_requests() {
        let program = compile(&rules(json!([
            { "allow": false, "type": "b", "major": 8, "minor": 0, "access": "w" },
        ])))
        .unwrap();
        assert_eq!(verdict(&program, TYPE_BLOCK, ACCESS_READ, 8, 0), 1);
        assert_eq!(verdict(&program, TYPE_BLOCK, ACCESS_READ | ACCESS_WRITE, 8, 0), 0);
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        let program = compile(&rules(json!([{ "allow": false, "access": "rwm" }]))).unwrap();
        match load_program(&program) {
            Ok(_) => {}
            Err(RuntimeError::System { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) =>
            {
                eprintln!("skipped: no right to load BPF programs");
            }
            Err(error) => panic!("{}", pouch_types::error::chain(&error)),
        }
    }
}
