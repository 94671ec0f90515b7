//! `--device`: what the specifications of the host's vendors say, put into a container's configuration.

use std::path::PathBuf;

use berth_container::cdi::{self, CdiError, DeviceRequest, Registry};
use berth_container::oci::Spec;

use crate::command_error::CommandError;

/// Adds the devices. Specifications are read only when a device is asked for by its CDI name.
pub fn add(devices: &[String], directories: &[PathBuf], spec: &mut Spec) -> Result<(), CommandError> {
    if devices.is_empty() {
        return Ok(());
    }
    let requests =
        devices.iter().map(|text| DeviceRequest::parse(text)).collect::<Result<Vec<_>, _>>().map_err(explain)?;
    let by_name = requests.iter().any(|request| matches!(request, DeviceRequest::Cdi { .. }));
    let registry = if by_name { Registry::load(directories) } else { Registry::default() };
    registry.apply(&requests, spec, cdi::host_device).map_err(explain)
}

fn explain(error: CdiError) -> CommandError {
    CommandError::failure(error.to_string()).with_hint(error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_container::oci::Process;

    #[test]
    fn a_device_brings_its_variables_and_an_unknown_one_names_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"cdiVersion":"0.6.0","kind":"example.com/gpu","devices":[{"name":"0","containerEdits":{"env":["GPU=0"]}}]}"#;
        std::fs::write(dir.path().join("gpu.json"), text).unwrap();
        let directories = [dir.path().to_owned()];
        let mut spec = Spec { process: Some(Process::default()), ..Spec::default() };
        add(&["example.com/gpu=0".to_owned()], &directories, &mut spec).unwrap();
        assert_eq!(spec.process.as_ref().unwrap().env, ["GPU=0"]);
        let error = add(&["example.com/gpu=7".to_owned()], &directories, &mut spec).unwrap_err();
        assert!(error.to_string().contains("example.com/gpu=0"), "{error:?}");
        assert!(add(&["nonsense".to_owned()], &directories, &mut spec).is_err());
    }
}
