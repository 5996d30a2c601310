//! The socket itself: who may come, what is said there, and what becomes of its file.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use aoe_server::admin::REQUEST_MAX;
use serde_json::{Value, json};

use crate::common::net::{PATIENCE, TestNet, within};
use crate::common::server::{Home, ServerProcess, ended, mem_target, run};
use crate::{ask, ask_json, objects, socket};

const MTU: usize = 1500;

fn server(net: &TestNet, home: &Home) -> ServerProcess {
    let config = home.server(net.a, "af-packet")
        + &mem_target(0, "64 KiB", "")
        + &mem_target(1, "1 MiB", "read_only = true");
    ServerProcess::start_in(home, &config)
}

/// A connection, and what comes by it.
struct Talk(BufReader<UnixStream>);

impl Talk {
    fn new(home: &Home) -> Self {
        let stream = UnixStream::connect(socket(home)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, octets: &[u8]) {
        self.0.get_mut().write_all(octets).unwrap();
    }

    /// The next line; `None` at the end.
    fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap();
        (read > 0).then(|| serde_json::from_str(&line).expect(&line))
    }

    fn ask(&mut self, request: &str) -> Value {
        self.say(request.as_bytes());
        self.say(b"\n");
        self.hear().expect("an answer")
    }
}

#[test]
fn status_tells_what_is_served_as_a_table_and_as_json() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let mut server = server(&net, &home);
    let found = fs::metadata(socket(&home)).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600, "nobody else may");

    let client = crate::common::server::client(net.b).open("e1.1".parse().unwrap());
    client.expect("it serves");
    // The loop publishes its counters some times a second.
    let mut status = Value::Null;
    let told = within(PATIENCE, || {
        status = ask_json(&home, "status");
        status["targets"][1]["counters"]["config_queries"].as_u64() > Some(0)
    });
    assert!(told, "{status}");
    assert_eq!(status["pid"], server.pid());
    let targets = status["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 2);
    assert_eq!(targets[0]["target"], "e1.0");
    assert_eq!((&targets[0]["backend"], &targets[0]["size"]), (&"mem".into(), &65_536.into()));
    assert_eq!((&targets[1]["read_only"], &targets[1]["exported"]), (&true.into(), &false.into()));
    assert_eq!(status["links"][0]["interface"], net.a);
    assert_eq!(status["stores"], json!([]));

    let (table, _) = ended(&ask(&home, "status"), 0);
    let row = table.lines().find(|line| line.starts_with("e1.1")).expect(&table);
    assert!(row.contains("1 MiB") && row.contains("memory (read-only)"), "{table}");
    assert!(
        table.lines().any(|line| line.starts_with("aoe-a") && line.contains(" up ")),
        "{table}"
    );
    // The configuration says where the socket is, and the environment where the configuration is.
    let config = server.config_path();
    ended(&run(["status".as_ref(), "--config".as_ref(), config.as_os_str()]), 0);
    let mut command = crate::common::server::program(["status"]);
    ended(&command.env("AOE_SERVER_CONFIG", config).output().unwrap(), 0);

    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    assert!(!socket(&home).exists(), "it is gone with the server");
    let (_, stderr) = ended(&ask(&home, "status"), 2);
    assert!(stderr.contains("is the server running?"), "{stderr}");
    assert!(stderr.contains("control.sock"), "{stderr}");
}

#[test]
fn lines_that_make_no_sense_are_refused_one_by_one() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let mut server = server(&net, &home);
    let mut talk = Talk::new(&home);
    let kind = |answer: &Value| answer["error"]["kind"].as_str().map(String::from);
    for line in ["", "nonsense", "[]", "{}", "{\"request\": \"reboot\"}", "\u{0}"] {
        let answer = talk.ask(line);
        assert_eq!(kind(&answer).as_deref(), Some("malformed"), "{line}: {answer}");
    }
    let answer = talk.ask("{\"request\": \"volume list\"}");
    assert_eq!(kind(&answer).as_deref(), Some("refused"), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(message, "this server has no archive open");
    // Several in one piece, and one in several.
    talk.say(b"{\"request\": \"status\"}\n{\"request\": \"sto");
    assert!(talk.hear().unwrap()["ok"]["targets"].is_array());
    talk.say(b"re list\"}\n");
    assert_eq!(talk.hear().unwrap(), json!({ "ok": { "stores": [] } }));

    // A line without end is not read to its end.
    talk.say(&vec![b'x'; REQUEST_MAX + 1]);
    let answer = talk.hear().unwrap();
    assert!(answer["error"]["message"].as_str().unwrap().contains("65536 octets"), "{answer}");
    assert_eq!(talk.hear(), None);
    // Who goes in the middle of a line has said nothing.
    let mut talk = Talk::new(&home);
    talk.say(b"{\"request\": \"status\"}");
    drop(talk);
    ended(&ask(&home, "status"), 0);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn there_are_so_many_clients_and_no_more() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let mut server = server(&net, &home);
    let mut all: Vec<_> = (0..16).map(|_| Talk::new(&home)).collect();
    for talk in &mut all {
        assert!(talk.ask("{\"request\": \"status\"}")["ok"].is_object());
    }
    let mut more = Talk::new(&home);
    let answer = more.hear().unwrap();
    assert_eq!(answer["error"]["kind"], "busy");
    assert_eq!(more.hear(), None);
    let (_, stderr) = ended(&ask(&home, "status"), 2);
    assert!(stderr.contains("16 clients are the most"), "{stderr}");
    all.pop();
    assert!(within(PATIENCE, || ask(&home, "status").status.success()));
    // Those that say nothing do not keep the server from ending.
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    for mut talk in all {
        assert_eq!(talk.hear(), None);
    }
}

#[test]
fn a_socket_that_was_left_is_replaced_and_one_that_is_used_is_not() {
    let Some(net) = TestNet::new(MTU) else { return };
    let (home, other) = (Home::new(), Home::new());
    fs::create_dir(home.path("state")).unwrap();
    drop(UnixListener::bind(socket(&home)).unwrap());
    let mut first = server(&net, &home);
    ended(&ask(&home, "status"), 0);

    let path = socket(&home);
    let key = format!("control_socket = \"{}\"\n", path.display());
    let config = other.server(net.b, "af-packet") + &key + &mem_target(7, "64 KiB", "");
    let file = other.path("second.toml");
    fs::write(&file, &config).unwrap();
    let (_, stderr) = ended(&run(["serve".as_ref(), "--config".as_ref(), file.as_os_str()]), 2);
    assert!(stderr.contains("a server listens on"), "{stderr}");
    assert!(stderr.contains("`control_socket`"), "{stderr}");
    assert_eq!(ask_json(&home, "status")["pid"], first.pid());

    // After a kill -9 it is there still, and nobody's.
    first.kill();
    assert!(path.exists());
    let before = fs::metadata(&path).unwrap().ino();
    let mut second = ServerProcess::start_in(&other, &config);
    assert_ne!(fs::metadata(&path).unwrap().ino(), before);
    assert_eq!(ask_json(&home, "status")["targets"][0]["target"], "e1.7");
    // One that somebody else has put in its place stays.
    fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(second.terminate().code(), Some(0), "{}", second.log());
    assert!(path.exists());
    drop(listener);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let precious = home.path("precious");
    fs::write(&precious, "data").unwrap();
    let key = format!("control_socket = \"{}\"\n", precious.display());
    let config = home.server(net.a, "af-packet") + &key + &mem_target(0, "64 KiB", "");
    let file = home.path("refused.toml");
    fs::write(&file, config).unwrap();
    let (_, stderr) = ended(&run(["serve".as_ref(), "--config".as_ref(), file.as_os_str()]), 2);
    assert!(stderr.contains("precious is no socket"), "{stderr}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "data");

    // Where none was asked for, the server serves without one.
    fs::create_dir_all(socket(&home)).unwrap();
    let mut server = server(&net, &home);
    server.wait_for_log("control.sock is no socket");
    crate::common::server::client(net.b).open("e1.0".parse().unwrap()).expect("it serves");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    assert!(socket(&home).is_dir());
}

#[test]
fn what_is_no_server_is_told_from_one() {
    let home = Home::new();
    fs::create_dir(home.path("state")).unwrap();
    let listener = UnixListener::bind(socket(&home)).unwrap();
    let speaker = std::thread::spawn(move || {
        for answer in ["hello\n", "{\"hello\": 1}\n", ""] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0xa5; 64];
            assert!(stream.read(&mut line).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for told in ["is no such server", "is no such server", "does not answer"] {
        let (stdout, stderr) = ended(&ask(&home, "status"), 2);
        assert_eq!(objects(&stdout), [] as [Value; 0]);
        assert!(stderr.contains(told), "{stderr}");
    }
    speaker.join().unwrap();
}
