//! A headless Chromium, driven by the DevTools protocol over two named pipes: what a page logs, how it is laid out, what it looks
//! like.
//!
//! Messages are JSON objects, each followed by a zero byte. The browser is looked for as `TCD_CHROMIUM`, then by its usual names.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::{Value, json};

/// The browser's program, where there is one.
pub fn program() -> Option<PathBuf> {
    if let Some(chosen) = std::env::var_os("TCD_CHROMIUM") {
        return Some(chosen.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|file| file.is_file())
}

/// Seconds after which a browser that hangs is ended.
const PATIENCE: u64 = 600;

/// Ends the browser when nobody holds it any more, or at the latest after [`PATIENCE`].
fn watch(child: &Weak<Mutex<Child>>) {
    for _ in 0..PATIENCE {
        std::thread::sleep(Duration::from_secs(1));
        if child.strong_count() == 0 {
            return;
        }
    }
    if let Some(child) = child.upgrade() {
        let _ = child.lock().unwrap().kill();
    }
}

/// A browser with one page.
pub struct Browser {
    child: Arc<Mutex<Child>>,
    requests: File,
    answers: BufReader<File>,
    session: String,
    count: u64,
    /// What went wrong in the page: exceptions, errors and warnings of the console, addresses that it asked the network for.
    pub complaints: Vec<String>,
}

impl Browser {
    /// Starts it; `folder` takes its profile and pipes.
    pub fn start(program: &Path, folder: &Path) -> Self {
        let (to, from) = (folder.join("to"), folder.join("from"));
        let made = Command::new("mkfifo").arg(&to).arg(&from).status();
        assert!(made.unwrap().success(), "mkfifo");
        // The protocol reads descriptor 3 and writes descriptor 4.
        let child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<"$TO" 4>"$FROM""#, "sh"])
            .arg(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--remote-debugging-pipe",
            ])
            .arg(format!(
                "--user-data-dir={}",
                folder.join("profile").display()
            ))
            .arg("about:blank")
            .env("TO", &to)
            .env("FROM", &from)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let child = Arc::new(Mutex::new(child));
        let watched = Arc::downgrade(&child);
        std::thread::spawn(move || watch(&watched));
        // Opened in the order in which the shell opens its ends.
        let requests = OpenOptions::new().write(true).open(&to).unwrap();
        let answers = BufReader::new(File::open(&from).unwrap());
        let mut browser = Browser {
            child,
            requests,
            answers,
            session: String::new(),
            count: 0,
            complaints: Vec::new(),
        };
        let made = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": made["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method and waits for its answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.count += 1;
        let id = self.count;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.requests
            .write_all(format!("{message}\0").as_bytes())
            .unwrap();
        loop {
            let answer = self.read();
            if answer["id"].as_u64() == Some(id) {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.answers.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser ended");
        let message: Value = serde_json::from_slice(&bytes).unwrap();
        let p = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => Some(p["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if p["type"] != "log" => Some(p.to_string()),
            Some("Log.entryAdded") => Some(p["entry"].to_string()),
            Some("Network.requestWillBeSent") => p["request"]["url"]
                .as_str()
                .filter(|url| {
                    !["file:", "data:", "about:"]
                        .iter()
                        .any(|s| url.starts_with(s))
                })
                .map(|url| format!("asks for {url}")),
            _ => None,
        };
        self.complaints.extend(complaint);
        message
    }

    /// Opens a file and waits until it is loaded.
    pub fn open(&mut self, file: &Path) {
        let url = format!("file://{}", file.display());
        self.call("Page.navigate", json!({"url": url}));
        let ready = "new Promise(r => document.readyState === 'complete' ? r(true) : addEventListener('load', () => r(true)))";
        assert_eq!(self.evaluate(ready), json!(true));
    }

    /// The size of the window and the colours that the system asks for.
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// The value of an expression, which may be a promise.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let call = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", call);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {}",
            answer["exceptionDetails"]
        );
        answer["result"]["value"].clone()
    }

    /// Presses a key, by its name.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "keyUp"] {
            let event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Moves the pointer.
    pub fn point(&mut self, x: f64, y: f64) {
        let event = json!({"type": "mouseMoved", "x": x, "y": y});
        self.call("Input.dispatchMouseEvent", event);
    }

    /// A picture of the whole page as PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let call = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", call);
        base64(answer["data"].as_str().unwrap())
    }

    /// The page as PDF, as it is printed.
    pub fn print(&mut self) -> Vec<u8> {
        let call = json!({"printBackground": true, "preferCSSPageSize": true});
        let answer = self.call("Page.printToPDF", call);
        base64(answer["data"].as_str().unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self
            .requests
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let Ok(mut child) = self.child.lock() else {
            return;
        };
        for _ in 0..50 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let place = |c: u8| -> u32 {
        match c {
            b'A'..=b'Z' => u32::from(c - b'A'),
            b'a'..=b'z' => u32::from(c - b'a') + 26,
            b'0'..=b'9' => u32::from(c - b'0') + 52,
            b'+' => 62,
            _ => 63,
        }
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0, |bits, c| bits << 6 | place(*c)) << (6 * (4 - four.len()));
        bytes.extend(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

#[test]
fn base64_is_read() {
    assert_eq!(base64("TWFu"), b"Man");
    assert_eq!(base64("TWE="), b"Ma");
    assert_eq!(base64("TQ=="), b"M");
    assert_eq!(base64("+/8="), [0xfb, 0xff]);
}
