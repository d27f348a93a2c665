//! NVRTC's entries. A program is compiled by the host's C++ compiler; its errors are told in NVRTC's form.

use std::ffi::{c_char, c_int};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::nvrtc::sys::nvrtcResult as Answer;

use crate::kernels;
use crate::places::{Null, list, put, text};
use crate::world::{Table, lock};

/// No version that NVIDIA ships, so that nobody takes its code from a cache for real code.
const VERSION: (c_int, c_int) = (13, 99);
const KNOWN: [c_int; 10] = [75, 80, 86, 87, 88, 89, 90, 100, 103, 120];

/// Options, as they begin; those that end with `=` have a value behind it.
const OPTIONS: [&str; 20] = [
    "--std=",
    "-std=",
    "--ftz=",
    "-ftz=",
    "--prec-div=",
    "-prec-div=",
    "--prec-sqrt=",
    "-prec-sqrt=",
    "--fmad=",
    "-fmad=",
    "--use_fast_math",
    "--maxrregcount=",
    "--define-macro=",
    "-default-device",
    "--device-as-default-execution-space",
    "--restrict",
    "--extra-device-vectorization",
    "--generate-line-info",
    "-lineinfo",
    "--device-debug",
];

struct Program {
    text: String,
    log: String,
    code: Option<Vec<u8>>,
}

static PROGRAMS: LazyLock<Mutex<Table<Program>>> =
    LazyLock::new(|| Mutex::new(Table::new("program")));

fn programs() -> MutexGuard<'static, Table<Program>> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a call fails.
enum Fault {
    Violation(Answer, String),
    Fair(Answer),
}

impl From<Null> for Fault {
    fn from(_: Null) -> Fault {
        Fault::Violation(Answer::NVRTC_ERROR_INVALID_INPUT, "a pointer is null".into())
    }
}

fn bad(why: String) -> Fault {
    Fault::Violation(Answer::NVRTC_ERROR_INVALID_PROGRAM, why)
}

fn answer(call: &str, done: Result<(), Fault>) -> Answer {
    match done {
        Ok(()) => Answer::NVRTC_SUCCESS,
        Err(Fault::Fair(code)) => code,
        Err(Fault::Violation(code, why)) => {
            lock().report(call, &why, true);
            code
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> Answer {
    let told = put(major, VERSION.0).and_then(|()| put(minor, VERSION.1));
    answer("nvrtcVersion", told.map_err(Fault::from))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> Answer {
    let told = put(count, KNOWN.len() as c_int);
    answer("nvrtcGetNumSupportedArchs", told.map_err(Fault::from))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetSupportedArchs(known: *mut c_int) -> Answer {
    let told = KNOWN.iter().enumerate().try_for_each(|(i, arch)| put(known.wrapping_add(i), *arch));
    answer("nvrtcGetSupportedArchs", told.map_err(Fault::from))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcCreateProgram(
    program: *mut u64,
    source: *const c_char,
    name: *const c_char,
    headers: c_int,
    _texts: *const *const c_char,
    _names: *const *const c_char,
) -> Answer {
    let made = || {
        if headers != 0 {
            let why = "headers are not simulated".to_owned();
            return Err(Fault::Violation(Answer::NVRTC_ERROR_INVALID_INPUT, why));
        }
        if !name.is_null() {
            text(name)?;
        }
        let program_of = Program { text: text(source)?, log: String::new(), code: None };
        Ok(put(program, programs().add(program_of))?)
    };
    answer("nvrtcCreateProgram", made())
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcDestroyProgram(program: *mut u64) -> Answer {
    let gone = || {
        let handle = crate::places::get(program)?;
        programs().remove(handle).map_err(bad)?;
        Ok(put(program, 0)?)
    };
    answer("nvrtcDestroyProgram", gone())
}

/// The architecture that options name; refuses what NVRTC does not know.
fn architecture(options: &[String]) -> Result<u32, Fault> {
    let refused = |why| Fault::Violation(Answer::NVRTC_ERROR_INVALID_OPTION, why);
    let mut found = None;
    for option in options {
        let arch = ["--gpu-architecture=", "-arch="].iter().find_map(|o| option.strip_prefix(o));
        if let Some(arch) = arch {
            let number = arch.strip_prefix("sm_").and_then(|arch| arch.parse::<u32>().ok());
            let known = number.filter(|number| KNOWN.contains(&(*number as c_int)));
            let why = || refused(format!("{arch} is no architecture with machine code"));
            found = Some(known.ok_or_else(why)?);
        } else if !OPTIONS.iter().any(|known| match known.ends_with('=') {
            true => option.len() > known.len() && option.starts_with(known),
            false => option == known,
        }) {
            return Err(refused(format!("unknown option `{option}`")));
        }
    }
    found.ok_or_else(|| refused("no architecture is named: no machine code".into()))
}

/// `file:line:column: error: …` in NVRTC's form.
fn log_of(words: &str) -> String {
    let line = |line: &str| {
        let mut parts = line.splitn(4, ':');
        let (file, number, column, rest) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let _: (u32, u32) = (number.parse().ok()?, column.parse().ok()?);
        Some(format!("{file}({number}):{rest}"))
    };
    let lines: Vec<String> =
        words.lines().map(|l| line(l).unwrap_or_else(|| l.to_owned())).collect();
    lines.join("\n")
}

fn compiled(program: u64, count: c_int, options: *const *const c_char) -> Result<(), Fault> {
    let source = programs().get(program).map_err(bad)?.text.clone();
    let options = list(options, count.max(0) as usize)?;
    let options = options.into_iter().map(text).collect::<Result<Vec<_>, Null>>()?;
    let architecture = architecture(&options)?;
    // Others go on meanwhile.
    let made = kernels::compile(&source);
    let mut programs = programs();
    let program = programs.get_mut(program).map_err(bad)?;
    match made {
        Ok(_) => {
            program.code = Some(kernels::pack(&source, architecture));
            program.log.clear();
            Ok(())
        }
        Err(words) => {
            program.log = log_of(&words);
            Err(Fault::Fair(Answer::NVRTC_ERROR_COMPILATION))
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcCompileProgram(
    program: u64,
    count: c_int,
    options: *const *const c_char,
) -> Answer {
    answer("nvrtcCompileProgram", compiled(program, count, options))
}

/// Calls `f` with the log and its final zero, or with the code.
fn bytes_of<T>(program: u64, log: bool, f: impl FnOnce(&[u8]) -> T) -> Result<T, Fault> {
    let programs = programs();
    let program = programs.get(program).map_err(bad)?;
    match (log, &program.code) {
        (true, _) => Ok(f(&[program.log.as_bytes(), b"\0"].concat())),
        (false, Some(code)) => Ok(f(code)),
        (false, None) => Err(bad("the program was not compiled".into())),
    }
}

fn write(bytes: &[u8], to: *mut c_char) -> Result<(), Null> {
    let mut bytes = bytes.iter().enumerate();
    bytes.try_for_each(|(i, byte)| put(to.wrapping_add(i), *byte as c_char))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLogSize(program: u64, size: *mut usize) -> Answer {
    let told = bytes_of(program, true, <[u8]>::len).and_then(|len| Ok(put(size, len)?));
    answer("nvrtcGetProgramLogSize", told)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLog(program: u64, log: *mut c_char) -> Answer {
    let told = bytes_of(program, true, |bytes| write(bytes, log)).and_then(|told| Ok(told?));
    answer("nvrtcGetProgramLog", told)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBINSize(program: u64, size: *mut usize) -> Answer {
    let told = bytes_of(program, false, <[u8]>::len).and_then(|len| Ok(put(size, len)?));
    answer("nvrtcGetCUBINSize", told)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBIN(program: u64, code: *mut c_char) -> Answer {
    let told = bytes_of(program, false, |bytes| write(bytes, code)).and_then(|told| Ok(told?));
    answer("nvrtcGetCUBIN", told)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetErrorString(code: c_int) -> *const c_char {
    let words: &[u8] = match code {
        0 => b"NVRTC_SUCCESS\0",
        5 => b"NVRTC_ERROR_INVALID_OPTION\0",
        6 => b"NVRTC_ERROR_COMPILATION\0",
        _ => b"NVRTC error\0",
    };
    words.as_ptr().cast()
}
