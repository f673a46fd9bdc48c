/** The HTTP layer around the routes: tokens, limits, broken connections, stopping. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type IncomingMessage, get, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { Harness, TENANT, TOKEN, errorOf } from "./harness.ts";

const AUTH = { authorization: `Bearer ${TOKEN}` };

/** Polls until the condition holds; fails after ten seconds. */
async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `in time: ${what}`);
    await sleep(5);
  }
}

void test("status needs no token and tells no secret", async () => {
  await using harness = await Harness.start();
  const reply = await harness.call("GET", "/v1/status", undefined, {});
  assert.equal(reply.status, 200);
  const { id, pid, version, state, started_at: startedAt, repository, ...rest } = reply.body ?? {};
  assert.equal(id, 1);
  assert.equal(pid, process.pid);
  assert.match(String(version), /^\d+\.\d+\.\d+/);
  assert.equal(state, "ready");
  assert.ok(Date.parse(String(startedAt)) <= Date.now());
  assert.match(String(repository), /neon-service-/);
  assert.deepEqual(rest, {});
  // As those ask who only want to know whether somebody is there.
  const head = await harness.call("HEAD", "/v1/status", undefined, {});
  assert.deepEqual([head.status, head.body], [200, undefined]);
});

void test("a method that a path does not have, and a path that there is not", async () => {
  await using harness = await Harness.withMain();
  const refused = async (method: string, path: string): Promise<string> => {
    const reply = await harness.call(method, path, method === "GET" ? undefined : {});
    return `${reply.status} ${errorOf(reply).message}`;
  };
  assert.equal(await refused("DELETE", "/v1/tenant"), "405 /v1/tenant takes GET, POST, not DELETE");
  // What has a name of its own is not taken for a tenant's id.
  const config = "405 /v1/tenant/config takes PUT, PATCH, not";
  assert.equal(await refused("GET", "/v1/tenant/config"), `${config} GET`);
  assert.equal(await refused("DELETE", "/v1/tenant/config"), `${config} DELETE`);
  const none = await harness.call("GET", "/v1/tenants");
  assert.deepEqual([none.status, errorOf(none).code], [404, "not_found"]);
  assert.match(String(errorOf(none).hint), /\/v1\/doc/);
});

void test("everything else wants the right token", async () => {
  await using harness = await Harness.withMain();
  for (const path of ["/v1/tenant", harness.t("/branch"), "/v1/nothing", "/v1/tenant/x"]) {
    for (const header of [
      undefined,
      "",
      TOKEN,
      "Bearer",
      "Bearer ",
      `Bearer ${TOKEN}x`,
      `Bearer ${TOKEN.slice(1)}`,
      `Bearer ${TOKEN} ${TOKEN}`,
      `Basic ${TOKEN}`,
    ]) {
      const reply = await harness.call(
        "GET",
        path,
        undefined,
        header === undefined ? {} : { authorization: header },
      );
      assert.equal(reply.status, 401, `${path} with ${String(header)}`);
      assert.equal(errorOf(reply).code, "unreachable");
      assert.match(String(reply.headers.get("www-authenticate")), /Bearer/);
    }
  }
  const lower = await harness.call("GET", "/v1/tenant", undefined, { authorization: `bearer ${TOKEN}` });
  assert.equal(lower.status, 200);
});

void test("a body that is too long is refused and the connection stays usable", async () => {
  await using harness = await Harness.withMain();
  const reply = await harness.call("POST", harness.t("/branch"), `{"name":"${"x".repeat(100_000)}"}`);
  assert.equal(reply.status, 413);
  assert.equal(errorOf(reply).code, "usage");
  assert.equal((await harness.call("POST", harness.t("/branch"), "[".repeat(70_000))).status, 413);
  const deep = await harness.call("POST", harness.t("/branch"), "[".repeat(60_000));
  assert.equal(errorOf(deep).code, "usage");
  const name = await harness.call("POST", harness.t("/branch"), {
    name: "n".repeat(999),
    point: { branch: "main" },
  });
  assert.match(errorOf(name).message, /too long/);
  const latin1 = Buffer.from([0x7b, 0xff, 0x7d]);
  const response = await fetch(harness.url + harness.t("/branch"), {
    method: "POST",
    headers: AUTH,
    body: latin1,
  });
  assert.equal(response.status, 400);
  assert.match(await response.text(), /UTF-8/);
  assert.equal((await harness.call("GET", `/v1/tenant?x=${"y".repeat(9000)}`)).status, 414);
});

void test("an upload that is refused early still gets its answer", async () => {
  await using harness = await Harness.withMain();
  const sizeBytes = 64 * 1024 * 1024;
  const chunk = Buffer.alloc(256 * 1024);
  for (const [headers, status] of [
    [AUTH, 409],
    [{}, 401],
  ] as const) {
    const request = httpRequest(harness.url + harness.t("/import?branch=main"), {
      method: "POST",
      agent: false,
      headers: { ...headers, "content-length": sizeBytes },
    });
    const answered = once(request, "response");
    const chunks = Readable.from(Array.from({ length: 256 }, () => chunk));
    const sent = pipeline(chunks, request).catch(() => undefined);
    const [response] = await answered;
    assert.equal(response.statusCode, status);
    let text = "";
    for await (const part of response) text += String(part);
    assert.equal(typeof JSON.parse(text).error.message, "string");
    await sent;
  }
});

void test("a client that reads only after it has sent everything gets the answer too", async () => {
  await using harness = await Harness.start();
  const sizeBytes = 16 * 1024 * 1024;
  const socket = connect(harness.server.port, "127.0.0.1");
  socket.pause();
  await once(socket, "connect");
  const head = `POST /v1/tenant HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${sizeBytes}\r\n\r\n`;
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.write(head);
    socket.write(Buffer.alloc(sizeBytes), (error) => (error ? reject(error) : resolve()));
  });
  let answer = "";
  for await (const data of socket) answer += String(data);
  assert.match(answer, /^HTTP\/1\.1 401 /);
});

void test("an upload that breaks off leaves nothing behind", async () => {
  await using harness = await Harness.withMain();
  const request = httpRequest(harness.url + harness.t("/import?branch=half"), {
    method: "POST",
    agent: false,
    headers: { ...AUTH, "content-length": 1_000_000 },
  });
  request.on("error", () => undefined);
  request.write(Buffer.alloc(100_000));
  await until("the import has begun", () => harness.timelines.importedBytes >= 100_000);
  // While it lasts, its name is taken.
  const rival = await harness.call("POST", harness.t("/branch"), { name: "half", point: { branch: "main" } });
  assert.equal(errorOf(rival).code, "exists");
  request.destroy();
  await until("the name is free again", async () => {
    const reply = await harness.call("POST", harness.t("/branch"), {
      name: "half",
      point: { branch: "main" },
    });
    return reply.status === 201;
  });
});

void test("an error in the middle of a base backup ends it early, with the reason in the trailer", async () => {
  await using harness = await Harness.withMain();
  const id = await harness.timelineIdOf("main");
  const main = [...harness.timelines.opened.values()][0];
  main?.failures.set("stream", new NeonError(ErrorCode.Corrupt, "layer is damaged"));
  const request = get(`${harness.url}${harness.t(`/timeline/${id}/basebackup`)}`, { headers: AUTH });
  const [response] = (await once(request, "response")) as [IncomingMessage];
  assert.equal(response.statusCode, 200);
  await once(response.resume(), "end");
  const told: unknown = JSON.parse(decodeURIComponent(String(response.trailers["x-neon-error"])));
  assert.deepEqual(told, { error: { code: "corrupt", message: "layer is damaged", hint: null } });
  await until("it is logged", () => harness.complaints.length > 0);
  assert.match(String(harness.complaints[0]?.["msg"]), /layer is damaged/);
});

void test("a client that leaves in the middle of a base backup is not an error", async () => {
  await using harness = await Harness.withMain();
  const id = await harness.timelineIdOf("main");
  const controller = new AbortController();
  const response = await fetch(`${harness.url}${harness.t(`/timeline/${id}/basebackup`)}`, {
    headers: AUTH,
    signal: controller.signal,
  });
  await response.body?.getReader().read();
  controller.abort();
  assert.equal((await harness.call("GET", harness.t("/branch"))).status, 200);
  await harness.server.stop();
  assert.deepEqual(harness.complaints, []);
});

void test("errors keep their code, and bugs are called bugs", async () => {
  await using harness = await Harness.withMain();
  const id = await harness.timelineIdOf("main");
  const main = [...harness.timelines.opened.values()][0];
  const path = harness.t(`/timeline/${id}/wait`);
  const body = { lsn: "0/1", timeout_ms: 1 };
  const answerTo = async (error: Error): Promise<{ status: number; error: ReturnType<typeof errorOf> }> => {
    main?.failures.set("waitForLsn", error);
    const reply = await harness.call("POST", path, body);
    return { status: reply.status, error: errorOf(reply) };
  };
  const statuses: Record<string, number> = {
    failed: 500,
    usage: 400,
    not_found: 404,
    exists: 409,
    conflict: 409,
    unreachable: 502,
    corrupt: 500,
    not_checked: 500,
    resource: 507,
    postgres: 502,
    timeout: 504,
    declined: 403,
    unsupported: 501,
  };
  for (const code of Object.values(ErrorCode)) {
    const reply = await answerTo(new NeonError(code, "said so", { hint: "Do that.", data: { lsn: "0/1" } }));
    assert.deepEqual(reply, {
      status: statuses[code],
      error: { code, message: "said so", hint: "Do that.", data: { lsn: "0/1" } },
    });
  }
  const full = await answerTo(
    Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" }),
  );
  assert.equal(full.error.code, "resource");
  assert.match(String(full.error.hint), /disk is full/);
  const bug = await answerTo(new TypeError("x is not a function"));
  assert.equal(bug.status, 500);
  assert.match(bug.error.message, /^internal error/);
});

void test("nonsense on the socket is answered with 400 or cut", async () => {
  await using harness = await Harness.start();
  for (const bytes of [
    "\0\0\0\0\r\n\r\n",
    "GET\r\n\r\n",
    "POST /v1/tenant HTTP/1.1\r\nContent-Length: x\r\n\r\n",
  ]) {
    const socket = connect(harness.server.port, "127.0.0.1");
    await once(socket, "connect");
    socket.write(bytes);
    let answer = "";
    socket.on("data", (data) => (answer += String(data)));
    await once(socket, "close");
    assert.match(answer, /^(HTTP\/1\.1 400|$)/);
  }
  assert.equal((await harness.call("GET", "/v1/status")).status, 200);
});

void test("a connection that sends nothing does not keep the server from stopping", async () => {
  await using harness = await Harness.start();
  const idle = connect(harness.server.port, "127.0.0.1");
  await once(idle, "connect");
  const closed = once(idle, "close");
  const started = performance.now();
  await harness.server.stop();
  await closed;
  assert.ok(performance.now() - started < 4000, "it did not wait for the connection");
  await assert.rejects(fetch(`${harness.url}/v1/status`));
  await harness.server.stop();
});

void test("a request under way is finished before the server stops", async () => {
  await using harness = await Harness.withMain();
  const request = httpRequest(harness.url + harness.t("/import?branch=late"), {
    method: "POST",
    agent: false,
    headers: { ...AUTH, "content-length": 8 },
  });
  const answered = once(request, "response");
  request.write("1234");
  await until("the import has begun", () => harness.timelines.importedBytes >= "a tar".length + 4);
  const stopping = harness.server.stop();
  request.end("5678");
  const [response] = await answered;
  assert.equal(response.statusCode, 201);
  response.resume();
  await stopping;
});

void test("without a token in its settings it lets everyone in", async () => {
  await using harness = await Harness.start({ token: "" });
  assert.equal((await harness.call("GET", "/v1/tenant", undefined, {})).status, 200);
  assert.equal((await harness.call("GET", `/v1/tenant/${TENANT}`, undefined, {})).status, 404);
});
