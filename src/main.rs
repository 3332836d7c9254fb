//! args -> config -> shell::run -> exit code.
fn main() {}
