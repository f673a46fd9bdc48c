import assert from "node:assert/strict";
import { createServer } from "node:net";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { parseTenantId, parseTimelineId, parseWriterEpoch } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { PageserverClient } from "../../src/client/pageserver-client.ts";
import { fakeHttp, sendJson } from "./fake-http.ts";

const TENANT = parseTenantId("0".repeat(32));
const TIMELINE = parseTimelineId("1".repeat(32));
const EPOCH = parseWriterEpoch("2".repeat(32));
const BRANCH = {
  name: "feature/x",
  timeline_id: TIMELINE,
  ancestor: { name: null, timeline_id: TIMELINE, lsn: "1/A" },
  last_record_lsn: "1/2F",
  durable_lsn: "1/2E",
  state: "active",
  error: null,
  lag_bytes: 5,
  writer: { name: "dev", epoch: EPOCH, state: "streaming", error: null },
  created_at: "2026-11-21T10:00:00Z",
  physical_bytes: 10,
  something_new: true,
};

function clientOf(baseUrl: string, timeoutMs?: number): PageserverClient {
  return new PageserverClient({ baseUrl, token: "secret", tenantId: TENANT, timeoutMs });
}

function fails(code: ErrorCode, pattern: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof NeonError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(`${error.message} ${error.hint}`, pattern);
    return true;
  };
}

test("branches: LSNs and ids are parsed, unknown fields ignored, names escaped, the token shown", async (t) => {
  const { baseUrl, seen } = await fakeHttp(t, (request, response) => {
    sendJson(response, 200, request.url.endsWith("/branch") ? { branches: [BRANCH] } : BRANCH);
  });
  const client = clientOf(baseUrl);
  const [first] = await client.listBranches();
  assert.equal(first?.lastRecordLsn, toLsn(2 ** 32 + 0x2f));
  assert.deepEqual(first?.ancestor, { name: null, timelineId: TIMELINE, lsn: toLsn(2 ** 32 + 10) });
  assert.equal(first?.writer?.epoch, EPOCH);
  assert.deepEqual(await client.getBranch("feature/x"), first);
  assert.equal(seen[1]?.url, `/v1/tenant/${TENANT}/branch/feature%2Fx`);
  assert.equal(seen[1]?.authorization, "Bearer secret");
});

test("requests carry what the routes want", async (t) => {
  const { baseUrl, seen } = await fakeHttp(t, (request, response) => {
    const answers: Record<string, unknown> = {
      branch: { name: "b", timeline_id: TIMELINE, ancestor: null },
      writer: { epoch: EPOCH, lsn: "0/10" },
      resolve: { lsn: "0/8" },
    };
    sendJson(response, 200, answers[request.url.split("/").at(-1) ?? ""] ?? {});
  });
  const client = clientOf(baseUrl);
  const body = (): unknown => JSON.parse(seen.at(-1)?.body ?? "null");
  await client.createBranch("b", { branch: "main", lsn: toLsn(16) });
  assert.deepEqual(body(), { name: "b", point: { branch: "main", lsn: "0/10" } });
  await client.createBranch("b", { timelineId: TIMELINE, timestampMs: 5 });
  assert.deepEqual(body(), { name: "b", point: { timeline_id: TIMELINE, timestamp_ms: 5 } });
  const writer = await client.openWriter(TIMELINE, {
    name: "c",
    source: { socketDirectory: "/s", port: 1, user: "u" },
  });
  assert.deepEqual(writer, { epoch: EPOCH, lsn: toLsn(16) });
  assert.deepEqual(body(), {
    name: "c",
    source: { socket_directory: "/s", port: 1, user: "u" },
    takeover: false,
  });
  assert.deepEqual(await client.resolve(TIMELINE, { lsn: toLsn(9) }), { lsn: toLsn(8) });
  await client.closeWriter(TIMELINE, EPOCH);
  assert.equal(seen.at(-1)?.method, "DELETE");
  await client.waitForLsn(TIMELINE, toLsn(3), 100);
  assert.deepEqual(body(), { lsn: "0/3", timeout_ms: 100 });
  await client.renameBranch("a", "b");
  assert.deepEqual(body(), { new_name: "b" });
});

test("an import is streamed, a base backup too", async (t) => {
  const { baseUrl, seen } = await fakeHttp(t, (request, response) => {
    if (request.method === "POST") {
      const answer = { timeline_id: TIMELINE, lsn: "0/10", system_id: "7400000000000000001", pg_version: 17 };
      sendJson(response, 201, answer);
      return;
    }
    response.writeHead(200, { "x-neon-lsn": "0/20", "x-neon-previous-lsn": "0/18" });
    response.end("tar".repeat(1000));
  });
  const client = clientOf(baseUrl);
  const tar = Readable.from([Buffer.from("abc"), Buffer.from("def")]);
  const imported = await client.importDataDirectory({ branch: "main", tar });
  assert.deepEqual(imported, {
    timelineId: TIMELINE,
    lsn: toLsn(16),
    systemId: "7400000000000000001",
    pgVersion: 17,
  });
  assert.equal(seen[0]?.body, "abcdef");
  const backup = await client.baseBackup(TIMELINE, { lsn: toLsn(32), readOnly: true });
  assert.equal(backup.lsn, toLsn(32));
  assert.equal(backup.previousLsn, toLsn(24));
  assert.equal((await text(backup.stream)).length, 3000);
  assert.match(seen[1]?.url ?? "", /read_only=true&lsn=0%2F20$/);
});

test("a base backup that breaks off is an error, not the end", async (t) => {
  const { baseUrl } = await fakeHttp(t, (_, response) => {
    response.writeHead(200, { "x-neon-lsn": "0/20", "content-length": "1000" });
    response.write("half");
    setImmediate(() => response.destroy());
  });
  const backup = await clientOf(baseUrl).baseBackup(TIMELINE, { readOnly: false });
  await assert.rejects(text(backup.stream));
});

test("the server's errors keep code, message, hint and data", async (t) => {
  const { baseUrl } = await fakeHttp(t, (_, response) => {
    sendJson(response, 409, {
      error: { code: "conflict", message: "it has children", hint: "Delete them.", data: { n: 2, x: [1] } },
    });
  });
  await assert.rejects(clientOf(baseUrl).deleteBranch("b"), (error) => {
    fails(ErrorCode.Conflict, /it has children Delete them\./)(error);
    assert.deepEqual((error as NeonError).data, { n: 2 });
    return true;
  });
});

test("a refused upload reports why, not that the pipe broke", async (t) => {
  const { createServer: createHttp } = await import("node:http");
  const server = createHttp((_, response) => {
    response.writeHead(409, { connection: "close" });
    response.end(JSON.stringify({ error: { code: "exists", message: "branch exists" } }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const tar = Readable.from(
    (function* () {
      for (let i = 0; i < 2000; i++) yield Buffer.alloc(64 * 1024);
    })(),
  );
  await assert.rejects(
    clientOf(`http://127.0.0.1:${port}`).importDataDirectory({ branch: "main", tar }),
    fails(ErrorCode.Exists, /branch exists/),
  );
});

test("nobody there, somebody else there, wrong token, silence, nonsense", async (t) => {
  const closed = createServer();
  closed.listen(0, "127.0.0.1");
  await once(closed, "listening");
  const { port } = closed.address() as AddressInfo;
  await new Promise((resolve) => closed.close(resolve));
  await assert.rejects(
    clientOf(`http://127.0.0.1:${port}`).status(),
    fails(ErrorCode.Unreachable, /neon start/),
  );

  const other = await fakeHttp(t, (_, response) => response.writeHead(404).end("<html>"));
  await assert.rejects(clientOf(other.baseUrl).status(), fails(ErrorCode.Unreachable, /not a pageserver/));

  const refusing = await fakeHttp(t, (_, response) => {
    sendJson(response, 401, { error: { code: "unreachable", message: "no" } });
  });
  await assert.rejects(
    clientOf(refusing.baseUrl).listBranches(),
    fails(ErrorCode.Unreachable, /refuses our token/),
  );

  const silent = await fakeHttp(t, () => undefined);
  await assert.rejects(clientOf(silent.baseUrl, 50).listBranches(), fails(ErrorCode.Timeout, /0\.05 s/));

  const wrong = await fakeHttp(t, (_, response) => {
    sendJson(response, 200, { branches: [{ ...BRANCH, last_record_lsn: 5 }] });
  });
  await assert.rejects(
    clientOf(wrong.baseUrl).listBranches(),
    fails(ErrorCode.Unreachable, /last_record_lsn/),
  );

  const raw = createServer((socket) => socket.end("SSH-2.0-x\r\n"));
  raw.listen(0, "127.0.0.1");
  await once(raw, "listening");
  t.after(() => raw.close());
  const address = raw.address() as AddressInfo;
  await assert.rejects(
    clientOf(`http://127.0.0.1:${address.port}`).status(),
    fails(ErrorCode.Unreachable, /not a pageserver/),
  );
});

test("an aborted request ends at once", async (t) => {
  const { baseUrl } = await fakeHttp(t, () => undefined);
  const abort = new AbortController();
  const waiting = clientOf(baseUrl).createBranch("b", { branch: "main" }, abort.signal);
  setImmediate(() => abort.abort());
  await assert.rejects(waiting, fails(ErrorCode.Failed, /given up/));
});
