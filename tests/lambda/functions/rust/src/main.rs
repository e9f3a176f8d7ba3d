//! Owns the function for Rust: it does what an event asks for, and records every invocation.
use lambda_runtime::streaming::{channel, Body, Response};
use lambda_runtime::{
    run_concurrent, service_fn, spawn_graceful_shutdown_handler, Context, Error, LambdaEvent,
};
use serde_json::{json, Value};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

fn record(event: &Value, context: &Context) -> Result<(), Error> {
    let line = json!({ "id": context.request_id, "name": event["name"], "pid": std::process::id() });
    let mut file =
        std::fs::OpenOptions::new().append(true).create(true).open(std::env::var("INVOCATIONS")?)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap_or(0)
}

async fn sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

fn arrived(place: &Path) -> Result<u64, Error> {
    Ok(std::fs::read_dir(place)?.count() as u64)
}

/// Returns when as many invocations are at this place: they are open at the same time.
async fn meet(event: &Value, context: &Context) -> Result<(), Error> {
    let place = Path::new(event["place"].as_str().ok_or("no place")?);
    std::fs::write(place.join(&context.request_id), "")?;
    for _ in 0..2_000 {
        if arrived(place)? >= number(event, "people") {
            return Ok(());
        }
        sleep(10).await;
    }
    Err(format!("only {} came", arrived(place)?).into())
}

fn describe(context: &Context) -> Value {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |age| age.as_millis() as u64);
    json!({
        "id": context.request_id,
        "arn": context.invoked_function_arn,
        "name": context.env_config.function_name,
        "version": context.env_config.version,
        "memory": context.env_config.memory,
        "remaining": context.deadline.saturating_sub(now),
        "client": context.client_context.as_ref().map(|client| json!({ "custom": client.custom })),
        "trace": context.xray_trace_id,
    })
}

async fn handle(LambdaEvent { payload: event, context }: LambdaEvent<Value>) -> Result<Value, Error> {
    record(&event, &context)?;
    let hello = json!({ "hello": event["name"], "pid": std::process::id() });
    Ok(match event["do"].as_str().unwrap_or("hello") {
        "hello" => hello,
        "echo" => event["payload"].clone(),
        "bytes" => Value::String("x".repeat(number(&event, "bytes") as usize - "\"\"".len())),
        "error" => return Err(event["message"].as_str().unwrap_or("it has failed").into()),
        "crash" => std::process::exit(3),
        "sleep" => {
            sleep(number(&event, "milliseconds")).await;
            hello
        }
        "meet" => {
            meet(&event, &context).await?;
            json!({ "pid": std::process::id() })
        }
        "print" => {
            (1..=number(&event, "lines")).for_each(|line| println!("line {line}"));
            event["lines"].clone()
        }
        "context" => describe(&context),
        other => return Err(format!("nothing is called {other:?}").into()),
    })
}

/// Writes its tokens one by one; each waits until the one before was taken, if `place` is given.
async fn stream(
    LambdaEvent { payload: event, context }: LambdaEvent<Value>,
) -> Result<Response<Body>, Error> {
    record(&event, &context)?;
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        for token in 0..number(&event, "tokens") {
            if sender.send_data(format!("token {token}\n").into()).await.is_err() {
                return;
            }
            let Some(place) = event["place"].as_str() else { continue };
            while !Path::new(place).join(token.to_string()).exists() {
                sleep(5).await;
            }
        }
        match event["end"].as_str() {
            Some("error") => sender.abort(),
            Some("crash") => std::process::exit(3),
            Some("sleep") => sleep(60_000).await,
            _ => {}
        }
    });
    let mut response = Response::from(body);
    response.metadata_prelude.headers.insert("content-type", "text/plain".parse()?);
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    if let Ok(file) = std::env::var("SHUTDOWN_FILE") {
        // Registers as an extension, so that the runtime gets a signal when it ends.
        spawn_graceful_shutdown_handler(|| async move { drop(std::fs::write(file, "")) }).await;
    }
    if std::env::var("_HANDLER").is_ok_and(|handler| handler == "function.stream") {
        return run_concurrent(service_fn(stream)).await;
    }
    run_concurrent(service_fn(handle)).await
}
