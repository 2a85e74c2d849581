use super::*;

fn argv(words: &[&str]) -> v1::Job {
    let arguments = words.iter().map(|word| (*word).to_owned()).collect();
    v1::Job { command: Some(v1::job::Command::Argv(v1::Argv { arguments })), ..Default::default() }
}

fn pair(name: &str, value: &str) -> v1::EnvironmentPair {
    v1::EnvironmentPair { name: name.into(), value: value.into() }
}

fn prepared(job: &v1::Job) -> Result<(SpawnTask, tempfile::TempDir), String> {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let blob = dir.path().join("blob");
    fs::write(&blob, "content").unwrap();
    let fetched = Fetched::from([(Digest::of(b"content"), blob)]);
    let task = prepare(&journal, Fence(9), job, &TaskEnvironment::default(), &fetched)?;
    Ok((task, dir))
}

#[test]
fn the_environment_is_closed_and_later_ones_win() {
    let mut job = argv(&["sh"]);
    job.matins = vec![pair("RUN_ID", "run-42"), pair("FENCE", "1")];
    job.env = vec![pair("A", "1"), pair("A", "2"), pair("MATINS_FENCE", "77"), pair("LANG", "C")];
    let (task, _dir) = prepared(&job).unwrap();
    let env: BTreeMap<String, String> = task.env.into_iter().collect();
    let names: Vec<&str> = env.keys().map(String::as_str).collect();
    let expected = [
        "A",
        "HOME",
        "LANG",
        "MATINS_FENCE",
        "MATINS_INPUT",
        "MATINS_OUTPUT",
        "MATINS_RUN_ID",
        "PATH",
        "TMPDIR",
    ];
    assert_eq!(names, expected);
    assert_eq!((env["A"].as_str(), env["LANG"].as_str(), env["MATINS_FENCE"].as_str()), ("2", "C", "9"));
    assert_eq!(fs::read_to_string(&env["MATINS_INPUT"]).unwrap(), "null");
}

#[test]
fn a_program_is_found_in_the_tasks_own_path() {
    let (task, _dir) = prepared(&argv(&["sh", "-c", "true"])).unwrap();
    assert!(task.program.is_absolute() && task.program.ends_with("sh"), "{:?}", task.program);
    let mut job = argv(&["sh"]);
    job.env = vec![pair("PATH", "/nowhere")];
    assert_eq!(prepared(&job).unwrap_err(), "cannot find `sh` in PATH (/nowhere)");
    assert_eq!(prepared(&argv(&["./missing"])).unwrap_err(), "`./missing` does not exist");
    assert_eq!(prepared(&argv(&[])).unwrap_err(), "the command is empty");
}

#[test]
fn what_is_too_long_is_named() {
    let long = "x".repeat(131_072);
    let error = prepared(&argv(&["sh", "-c", &long])).unwrap_err();
    assert!(error.starts_with("argument 2 has 131072 bytes"), "{error}");
    assert!(prepared(&argv(&["sh", "-c", &long[1..]])).is_ok());
    let mut job = argv(&["sh"]);
    job.env = vec![pair("BIG", &long)];
    assert!(prepared(&job).unwrap_err().starts_with("environment variable `BIG` has 131072 bytes"));
    let many: Vec<&str> = std::iter::once("sh").chain(std::iter::repeat_n(&long[1..], 60)).collect();
    let error = prepared(&argv(&many)).unwrap_err();
    assert!(error.starts_with("arguments and environment have"), "{error}");
}

#[test]
fn files_are_read_only_copies_inside_the_working_directory() {
    let file = |path: &str| v1::JobFile {
        path: path.into(),
        digest: Digest::of(b"content").0.to_vec(),
        size: 7,
        executable: false,
    };
    let mut job = argv(&["sh"]);
    job.files = vec![file("scripts/a.py")];
    let (task, dir) = prepared(&job).unwrap();
    let copy = task.directory.join("scripts/a.py");
    assert_eq!(fs::read_to_string(&copy).unwrap(), "content");
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    assert_ne!(
        std::os::unix::fs::MetadataExt::ino(&copy.metadata().unwrap()),
        std::os::unix::fs::MetadataExt::ino(&dir.path().join("blob").metadata().unwrap()),
    );
    for outside in ["../a", "/etc/passwd", ""] {
        job.files = vec![file(outside)];
        assert!(prepared(&job).unwrap_err().contains("does not lie in the working directory"), "{outside}");
    }
}

#[test]
fn a_script_runs_by_its_interpreter_its_first_line_or_sh() {
    let script = |text: &str, interpreter: &[&str]| v1::Job {
        command: Some(v1::job::Command::Script(v1::Script {
            text: text.into(),
            interpreter: interpreter.iter().map(|word| (*word).to_owned()).collect(),
        })),
        ..Default::default()
    };
    let words = |job: &v1::Job| {
        let (task, _dir) = prepared(job).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let rest = task.arguments.iter().map(|argument| name(Path::new(argument)));
        std::iter::once(name(&task.program)).chain(rest).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(words(&script("echo", &[])), "sh -e script");
    assert_eq!(words(&script("#!/bin/cat\nx", &[])), "script");
    assert_eq!(words(&script("x", &["env", "-i"])), "env -i script");
}
