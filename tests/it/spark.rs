//! Queries on a cluster: a small server that speaks Spark Connect does what a real one does not on
//! demand. `make test-distributed` runs a real one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::harness::{
    KEY, Server, at_time, echopilot, event, folder, free_port, post_to, run_json,
};

const QUERY: &str = r#"{"metric":"event_types","days":3,"filter":{"feature":{"not":"it's"}}}"#;

/// The reaction of the server to a request to execute a plan.
#[derive(Debug, Clone)]
enum Behaviour {
    /// Sends these bytes as messages, then the status.
    Send(Vec<Vec<u8>>, u32, &'static str),
    /// Sends these, and then ends the stream without a status.
    EndEarly(Vec<Vec<u8>>),
    /// Sends these, and then breaks the stream.
    Break(Vec<Vec<u8>>),
    /// Sends nothing.
    Hang,
    /// Sends the result of event types, and to a check this row.
    Checked(i64, i64),
}

/// A request: path, token and body.
type Received = (String, Option<String>, Vec<u8>);

/// A server of Spark Connect that ends when it is dropped.
struct Cluster {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

impl Cluster {
    fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let of_server = Arc::clone(&received);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, behaviour, of_server) => {}
                }
            });
        });
        Self {
            address,
            received,
            stop: Some(stop),
        }
    }

    /// The requests of a method, without those of checks, which are sent at any time.
    fn requests(&self, method: &str) -> Vec<Received> {
        let received = self.received.lock().unwrap();
        received
            .iter()
            .filter(|(path, _, body)| path.ends_with(method) && !is_check(body))
            .cloned()
            .collect()
    }
}

/// True for the SQL that counts events which engines read differently, and daily visitors.
fn is_check(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).contains(" as visitors")
}

/// The row of a check.
fn checked(odd: i64, visitors: i64) -> Vec<u8> {
    let number = |number: i64| Arc::new(Int64Array::from(vec![number])) as ArrayRef;
    rows(
        vec![("odd_1", number(odd)), ("visitors", number(visitors))],
        1,
    )
}

async fn serve(
    listener: tokio::net::TcpListener,
    behaviour: Behaviour,
    received: Arc<Mutex<Vec<Received>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (behaviour, received) = (behaviour.clone(), received.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let (behaviour, received) = (behaviour.clone(), received.clone());
            async move {
                let path = request.uri().path().to_owned();
                let token = request.headers().get("authorization");
                let token = token.map(|token| token.to_str().unwrap().to_owned());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                received
                    .lock()
                    .unwrap()
                    .push((path.clone(), token, body.to_vec()));
                let frames = match path.ends_with("ExecutePlan") {
                    true if is_check(&body) => {
                        let (odd, visitors) = match behaviour {
                            Behaviour::Checked(odd, visitors) => (odd, visitors),
                            _ => (0, 0),
                        };
                        Frames::of(Behaviour::Send(vec![checked(odd, visitors)], 0, ""))
                    }
                    true => Frames::of(behaviour),
                    // No field is needed.
                    false => Frames::of(Behaviour::Send(vec![message(&[])], 0, "")),
                };
                let response = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(response.body(frames).unwrap())
            }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = connection
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

/// The body of a response.
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    hangs: bool,
    breaks: bool,
}

impl Frames {
    fn of(behaviour: Behaviour) -> Self {
        let data = |bytes: Vec<Vec<u8>>| {
            bytes
                .into_iter()
                .map(|bytes| Frame::data(Bytes::from(bytes)))
                .collect()
        };
        let plain = |frames| Self {
            frames,
            hangs: false,
            breaks: false,
        };
        match behaviour {
            Behaviour::Send(bytes, status, text) => {
                let mut frames: VecDeque<_> = data(bytes);
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.into());
                trailers.insert("grpc-message", text.parse().unwrap());
                frames.push_back(Frame::trailers(trailers));
                plain(frames)
            }
            Behaviour::EndEarly(bytes) => plain(data(bytes)),
            Behaviour::Break(bytes) => Self {
                breaks: true,
                ..plain(data(bytes))
            },
            Behaviour::Hang => Self {
                hangs: true,
                ..plain(VecDeque::new())
            },
            Behaviour::Checked(..) => Self::of(complete()),
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.hangs => Poll::Pending,
            None if self.breaks => {
                Poll::Ready(Some(Err(std::io::Error::other("the cluster died"))))
            }
            None => Poll::Ready(None),
        }
    }
}

/// A message of gRPC.
fn message(protobuf: &[u8]) -> Vec<u8> {
    let length = u32::try_from(protobuf.len()).unwrap().to_be_bytes();
    [&[0], &length[..], protobuf].concat()
}

/// A field of bytes of protobuf.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(bytes);
    field
}

/// A number of protobuf at the start of some bytes, and its length.
fn varint(bytes: &[u8]) -> (u64, usize) {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return (number, place + 1);
        }
    }
    panic!("no number");
}

/// The values of the fields of bytes under a path of field numbers.
fn fields_at(message: &[u8], path: &[u64]) -> Vec<Vec<u8>> {
    let Some((first, rest)) = path.split_first() else {
        return vec![message.to_vec()];
    };
    let mut found = Vec::new();
    let mut left = message;
    while !left.is_empty() {
        let (key, length) = varint(left);
        left = &left[length..];
        let (number, length) = varint(left);
        left = &left[length..];
        if key & 7 == 2 {
            let (value, after) = left.split_at(number as usize);
            left = after;
            if key >> 3 == *first {
                found.extend(fields_at(value, rest));
            }
        }
    }
    found
}

/// The message with some rows, of which so many are announced.
fn rows(columns: Vec<(&str, ArrayRef)>, announced: u8) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut stream = Vec::new();
    let mut writer = StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    // ExecutePlanResponse.arrow_batch, with ArrowBatch.row_count and data.
    let batch = [&[1 << 3, announced][..], &field(2, &stream)].concat();
    message(&field(2, &batch))
}

/// The rows of a result of event types.
fn event_types(announced: u8) -> Vec<u8> {
    let numbers = |numbers: [i64; 2]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
    let names = Arc::new(StringArray::from(vec!["action", "signup"]));
    rows(
        vec![
            ("event_type", names),
            ("occurrences", numbers([7, 2])),
            ("users", numbers([3, 1])),
        ],
        announced,
    )
}

fn complete() -> Behaviour {
    Behaviour::Send(vec![event_types(2)], 0, "")
}

/// A data folder with sealed events of two days and one that is not sealed.
fn sealed(data: &Path) {
    for (time, features) in [
        ("2026-11-18 10:00:00", ["a", "b"]),
        ("2026-11-19 10:00:00", ["a", "c"]),
    ] {
        let lines = features.map(|feature| event("action", "ann", feature).to_string());
        let file = data.with_extension("ndjson");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut import = echopilot(data);
        at_time(&mut import, time);
        assert!(
            import
                .arg("import")
                .arg(&file)
                .output()
                .unwrap()
                .status
                .success()
        );
    }
}

/// Runs the query on a cluster, on a day with these events.
fn query(data: &Path, address: SocketAddr, options: &[&str]) -> Output {
    let mut command = on_cluster(data, address);
    command
        .args(["query", QUERY, "--format", "json"])
        .args(options);
    command.output().unwrap()
}

fn on_cluster(data: &Path, address: SocketAddr) -> Command {
    let mut command = echopilot(data);
    at_time(&mut command, "2026-11-19 12:00:00");
    command.env("ECHOPILOT_ENGINE", "spark");
    command.env("ECHOPILOT_REMOTE", format!("sc://{address}"));
    command
}

#[test]
fn a_query_reads_the_files_of_its_window_and_returns_the_same_fields() {
    let dir = folder();
    let data = dir.path().join("data");
    sealed(&data);
    let cluster = Cluster::start(complete());
    let token = dir.path().join("token");
    std::fs::write(&token, "secret-1\n").unwrap();
    let token = token.to_str().unwrap();
    let options = [
        "--remote-lake",
        "s3a://bucket/events/",
        "--remote-token-file",
        token,
    ];
    let output = query(&data, cluster.address, &options);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        found["rows"],
        json!([{"event_type":"page_view","events":0,"users":0},{"event_type":"action","events":7,"users":3},
            {"event_type":"conversion","events":0,"users":0},{"event_type":"signup","events":2,"users":1}])
    );
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(data.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(
        (&found["engine"], &found["files"]),
        (&json!("spark"), &json!(2))
    );
    assert_eq!(found["version"], manifest["sequence"]);
    assert!(
        found["sealed_through"]
            .as_str()
            .unwrap()
            .starts_with("2026-11-19T10:00")
    );
    // All other fields are those of the embedded engine.
    let mut embedded = echopilot(&data);
    at_time(&mut embedded, "2026-11-19 12:00:00");
    let embedded = embedded
        .args(["query", QUERY, "--format", "json"])
        .output()
        .unwrap();
    let embedded: Value = serde_json::from_slice(&embedded.stdout).unwrap();
    for name in ["ok", "metric", "window", "covered_from"] {
        assert_eq!(found[name], embedded[name], "{name}");
    }
    std::fs::write(dir.path().join("token"), "secret-2").unwrap();
    assert!(
        query(
            &data,
            cluster.address,
            &[&options[..], &["--format", "csv"]].concat()
        )
        .status
        .code()
        .is_some()
    );
    query(&data, cluster.address, &options);
    let requests = cluster.requests("ExecutePlan");
    let tokens: Vec<_> = requests
        .iter()
        .map(|(_, token, _)| token.as_deref().unwrap())
        .collect();
    assert_eq!(tokens.first(), Some(&"Bearer secret-1"));
    assert_eq!(tokens.last(), Some(&"Bearer secret-2"));
    let body = String::from_utf8_lossy(&requests[0].2).into_owned();
    for part in [
        "s3a://bucket/events/dt=2026-11-18/",
        "s3a://bucket/events/dt=2026-11-19/",
        "it's",
        "text_1",
    ] {
        assert!(body.contains(part), "{part}");
    }
    // The path to the files in the messages of Spark: plan, root, with_relations, references,
    // subquery_alias, input, project, input, read, data_source, paths.
    let path = [3, 1, 41, 2, 16, 1, 3, 1, 2, 2, 4];
    assert_eq!(fields_at(&requests[0].2[5..], &path).len(), 2);
    // A value is a parameter, and never part of the SQL.
    assert_eq!(body.matches("it's").count(), 1);
    // Views of requests that run at the same time have different names: plan, root, with_relations,
    // references, subquery_alias, alias.
    let names = |request: &Received| fields_at(&request.2[5..], &[3, 1, 41, 2, 16, 2]);
    let (first, last) = (names(&requests[0]), names(requests.last().unwrap()));
    assert_eq!((first.len(), last.len()), (5, 5));
    assert!(first.iter().all(|name| !last.contains(name)));
    let one_day = [QUERY.replace("\"days\":3", "\"days\":1")];
    let mut command = on_cluster(&data, cluster.address);
    let output = command
        .args(["query", &one_day[0], "--format", "json"])
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["files"], json!(1));
}

#[test]
fn a_query_reads_the_links_of_its_version_and_they_count() {
    let dir = folder();
    let data = dir.path().join("data");
    sealed(&data);
    let file = dir.path().join("calls.ndjson");
    let call = json!({"type":"identify","anonymousId":"ann","userId":"bob","timestamp":"2026-11-19T11:00:00Z"});
    std::fs::write(&file, call.to_string()).unwrap();
    let mut import = echopilot(&data);
    at_time(&mut import, "2026-11-19 11:30:00");
    import.args(["import", "--from", "segment"]).arg(&file);
    assert!(import.output().unwrap().status.success());
    let cluster = Cluster::start(complete());
    let options = ["--remote-lake", "s3a://bucket/events"];
    let output = query(&data, cluster.address, &options);
    assert!(output.status.success(), "{output:?}");
    let request = &cluster.requests("ExecutePlan")[0];
    // The path to the table of links, which is not projected: plan, root, with_relations,
    // references, subquery_alias, input, read, data_source, paths.
    let path = [3, 1, 41, 2, 16, 1, 2, 2, 4];
    let links = fields_at(&request.2[5..], &path);
    let names: Vec<String> = std::fs::read_dir(data.join("links"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".links.table"))
        .collect();
    let expected = format!("s3a://bucket/links/{}", names[0]);
    assert_eq!((names.len(), links), (1, vec![expected.into_bytes()]));

    // The table of a version follows its commit.
    std::fs::remove_file(data.join("links").join(&names[0])).unwrap();
    let output = query(&data, cluster.address, &options);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("table of links"), "{error}");
    run_json(&data, &["seal"]);
    assert!(query(&data, cluster.address, &options).status.success());
}

#[test]
fn daily_visitors_and_odd_metadata_are_reported_with_the_result_or_instead_of_it() {
    let dir = folder();
    let data = dir.path().join("data");
    sealed(&data);
    let ask = |cluster: &Cluster, query: &str| {
        let mut command = on_cluster(&data, cluster.address);
        let output = command.args(["query", query, "--format", "json"]).output();
        output.unwrap()
    };
    let cluster = Cluster::start(Behaviour::Checked(0, 5));
    let found: Value = serde_json::from_slice(&ask(&cluster, QUERY).stdout).unwrap();
    assert_eq!(found["visitors"], json!("daily"));
    // A day has them once.
    let one_day = QUERY.replace("\"days\":3", "\"days\":1");
    let found: Value = serde_json::from_slice(&ask(&cluster, &one_day).stdout).unwrap();
    assert_eq!(found["visitors"], Value::Null);
    assert!(found["rows"].is_array());
    let cluster = Cluster::start(Behaviour::Checked(3, 0));
    let by_plan = r#"{"metric":"event_types","days":3,"filter":{"metadata.plan":"pro"}}"#;
    let output = ask(&cluster, by_plan);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains("metadata.plan") && error.contains("3 of the events"),
        "{error}"
    );
}

#[test]
fn what_goes_wrong_on_a_cluster_is_an_error_with_address_and_reason() {
    let dir = folder();
    let data = dir.path().join("data");
    sealed(&data);
    let floats = Arc::new(Float64Array::from(vec![1.0])) as ArrayRef;
    let names = Arc::new(StringArray::from(vec!["action"])) as ArrayRef;
    let too_large = [&[0][..], &(1_u32 << 30).to_be_bytes(), b"rest"].concat();
    let half = event_types(2)[..40].to_vec();
    for (behaviour, says) in [
        (Behaviour::EndEarly(vec![event_types(2)]), "cut off"),
        (Behaviour::EndEarly(vec![half.clone()]), "cut off"),
        (
            Behaviour::Break(vec![event_types(2)]),
            "the connection broke",
        ),
        (Behaviour::Break(vec![half]), "the connection broke"),
        (
            Behaviour::Send(vec![event_types(3)], 0, ""),
            "2 rows instead of 3",
        ),
        (Behaviour::Send(vec![], 0, ""), "cut off"),
        (
            Behaviour::Send(vec![message(&field(2, &field(2, b"no arrow")))], 0, ""),
            "not an Arrow stream",
        ),
        (
            Behaviour::Send(vec![rows(vec![("event_type", names.clone())], 1)], 0, ""),
            "no column occurrences",
        ),
        (
            Behaviour::Send(vec![rows(vec![("event_type", floats)], 1)], 0, ""),
            "of the type Float64",
        ),
        (Behaviour::Send(vec![too_large], 0, ""), "too large"),
        (
            Behaviour::Send(vec![], 16, "expired"),
            "rejects the token (expired)",
        ),
        (Behaviour::Send(vec![], 7, "no"), "ECHOPILOT_REMOTE_TOKEN"),
        (
            Behaviour::Send(vec![], 13, "[PATH_NOT_FOUND] /lake/x"),
            "cannot read a file of the lake",
        ),
        (
            Behaviour::Send(vec![], 13, "[UNRESOLVED_COLUMN] first"),
            "[UNRESOLVED_COLUMN] first",
        ),
    ] {
        let cluster = Cluster::start(behaviour.clone());
        let output = query(&data, cluster.address, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{behaviour:?}: {error}");
        assert!(output.stdout.is_empty());
        let address = format!("the engine at sc://{} failed", cluster.address);
        assert!(
            error.contains(&address) && error.contains(says),
            "{says}: {error}"
        );
    }
}

#[test]
fn a_port_without_grpc_and_one_without_a_server_are_named() {
    let dir = folder();
    let data = dir.path().join("data");
    sealed(&data);
    let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = listener.local_addr().unwrap();
    let web = std::thread::spawn(move || {
        // That of the query, and that of its check.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            // Until the client has read it, and closed the connection.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let output = query(&data, address, &[]);
    web.join().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("does not speak gRPC"), "{error}");
    // Nothing listens there any more.
    let output = query(&data, address, &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("is not reachable") && error.contains("--remote"),
        "{error}"
    );
}

#[test]
fn a_slow_query_is_interrupted_at_its_deadline_and_when_its_client_leaves() {
    let dir = folder();
    let data = dir.path().join("data");
    sealed(&data);
    let cluster = Cluster::start(Behaviour::Hang);
    let wait_for = |method: &str, count: usize| {
        let started = Instant::now();
        while cluster.requests(method).len() < count {
            assert!(started.elapsed() < Duration::from_secs(60), "no {method}");
            std::thread::yield_now();
        }
    };
    let started = Instant::now();
    let output = query(&data, cluster.address, &["--remote-timeout", "4"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("within 4 s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60));
    wait_for("Interrupt", 1);
    assert_eq!(cluster.requests("Interrupt").len(), 1);

    let mut command = echopilot(&data);
    command.env("ECHOPILOT_ENGINE", "spark");
    command.env("ECHOPILOT_REMOTE", format!("sc://{}", cluster.address));
    let server = Server::start_as(command);
    let url = format!("{}/api/analytics/query", server.url);
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut client = std::net::TcpStream::connect(host).unwrap();
    let length = QUERY.len();
    write!(
        client,
        "POST /{path} HTTP/1.1\r\nhost: {host}\r\nx-dash-key: {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{QUERY}"
    )
    .unwrap();
    wait_for("ExecutePlan", 2);
    drop(client);
    wait_for("Interrupt", 2);
}

#[test]
fn a_server_responds_503_without_its_cluster_and_still_accepts_events() {
    let dir = folder();
    let data = dir.path().join("data");
    sealed(&data);
    let nobody = format!("127.0.0.1:{}", free_port());
    let mut command = echopilot(&data);
    command.env("ECHOPILOT_ENGINE", "spark");
    command.env("ECHOPILOT_REMOTE", format!("sc://{nobody}"));
    // Soon after the last event: the clock of a later time would have to be confirmed.
    at_time(&mut command, "@2026-11-19 12:00:00");
    let server = Server::start_as(command);
    let answer = server.ask(
        "/api/analytics/query",
        &serde_json::from_str(QUERY).unwrap(),
    );
    assert_eq!(
        (answer.0, &answer.1["error"]),
        (503, &json!("remote_engine"))
    );
    let message = answer.1["message"].as_str().unwrap();
    assert!(message.contains(&format!("sc://{nobody}")), "{message}");
    let usage = server.get_with("/api/analytics/usage", &[("x-dash-key", KEY)]);
    assert_eq!((usage.0, &usage.1["error"]), (503, &json!("remote_engine")));
    let logged = post_to(
        &server.url,
        event("action", "bob", "x").to_string().as_bytes(),
        &[],
    );
    assert_eq!(logged.unwrap().1["logged"], json!(1));
    // A query that SQL cannot say is wrong, whatever the state of the cluster.
    let wrong = json!({"metric":"paths","by":"session"});
    let answer = server.ask("/api/analytics/query", &wrong);
    assert_eq!(
        (answer.0, &answer.1["error"]),
        (400, &json!("not_portable"))
    );
}

#[test]
fn wrong_options_of_a_cluster_are_rejected_before_anything_is_sent() {
    let dir = folder();
    let data = dir.path().join("data");
    run_json(&data, &["seal"]);
    for (options, says) in [
        (&["--engine", "spark"][..], "--remote"),
        (&["--engine", "spark", "--remote", "http://x"], "sc://"),
        (
            &["--engine", "spark", "--remote", "sc://x/;token=abc"],
            "ECHOPILOT_REMOTE_TOKEN",
        ),
        (
            &[
                "--engine",
                "spark",
                "--remote",
                "sc://10.0.0.1",
                "--remote-token",
                "abc",
            ],
            "without encryption",
        ),
        (&["--engine", "other"], "embedded"),
    ] {
        let output = echopilot(&data)
            .args(["usage"])
            .args(options)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(says), "{error}");
    }
}
