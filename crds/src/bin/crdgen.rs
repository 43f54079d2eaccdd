//! Prints the custom resource definitions as YAML.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    std::io::stdout().write_all(cumulet_crds::yaml()?.as_bytes())?;
    Ok(())
}
