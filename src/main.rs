//! What was typed -> what it means -> done or not -> exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let typed: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let arguments = match sluice::cli::args::read(&typed) {
        Ok(arguments) => arguments,
        Err((text, 0)) => {
            println!("{}", text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err((text, code)) => {
            eprintln!("{text}");
            return ExitCode::from(code);
        }
    };
    match sluice::cli::carry_out(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(sluice::cli::fail(&failure)),
    }
}
