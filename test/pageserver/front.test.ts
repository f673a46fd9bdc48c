/** One port for TLS and plain connections: who is let in how, renewed certificates, and clients that never say anything. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { type IncomingMessage, createServer, request as plainRequest } from "node:http";
import { request as encryptedRequest } from "node:https";
import { type Socket, connect } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { makeCertificate } from "../../src/pgwire/certificate.ts";
import { Front, type FrontOptions } from "../../src/pageserver/service/front.ts";
import { ServerCertificate } from "../../src/pageserver/service/server-certificate.ts";
import { Harness, TOKEN, TempDirectory } from "./harness.ts";

const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };

function writeCertificate(
  directory: TempDirectory,
  host = "localhost",
): { certPath: string; keyPath: string } {
  const made = makeCertificate({ hosts: [host, "127.0.0.1"], days: 1, now: Date.now() }, random);
  const [certPath, keyPath] = [join(directory.path, "server.crt"), join(directory.path, "server.key")];
  writeFileSync(keyPath, made.keyPem, { mode: 0o600 });
  writeFileSync(certPath, made.certPem);
  return { certPath, keyPath };
}

/** A front before a server that says which way a request came. */
class Lab implements AsyncDisposable {
  readonly front: Front;
  readonly failures: string[] = [];
  private readonly http = createServer({ keepAliveTimeout: 120_000 }, (request, response) => {
    response.end("encrypted" in request.socket ? "encrypted" : "plain");
  });

  constructor(options: Partial<FrontOptions>, certificate?: ServerCertificate) {
    const base = {
      host: "127.0.0.1",
      port: 0,
      setting: "pageserver.listen",
      insecure: false,
      alpn: ["http/1.1"],
    };
    this.front = new Front(
      { ...base, ...options },
      {
        tls: () => certificate?.current(),
        onConnection: (socket) => this.http.emit("connection", socket),
        onFailure: (error) => this.failures.push(error.message),
      },
    );
  }

  get port(): number {
    return this.front.port;
  }

  /** A connection that says nothing. */
  async silent(): Promise<Socket> {
    const socket = connect({ port: this.port, host: "127.0.0.1" });
    socket.on("error", () => undefined);
    await once(socket, "connect");
    return socket;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.front[Symbol.asyncDispose]();
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer) if (chunk instanceof Buffer) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function plain(port: number, options: { localAddress?: string } = {}): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    plainRequest({ port, host: "127.0.0.1", agent: false, ...options }, resolve)
      .on("error", reject)
      .end();
  });
}

function encrypted(
  port: number,
  options: { ca?: string; servername?: string } = {},
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    encryptedRequest({ port, host: "127.0.0.1", agent: false, ...options }, resolve)
      .on("error", reject)
      .end();
  });
}

/** Until it is closed, in whichever way: a reset is one, too. */
function closeOf(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.closed) resolve();
    else socket.once("close", () => resolve());
  });
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `in time: ${what}`);
    await sleep(5);
  }
}

void test("the same port takes plain HTTP and HTTPS, and a renewed certificate holds at once", async () => {
  using directory = new TempDirectory();
  const files = writeCertificate(directory);
  const certificate = ServerCertificate.load(files);
  await using lab = new Lab({}, certificate);
  await lab.front.listen();
  const ca = makePem(files.certPath);
  assert.equal(await textOf(await plain(lab.port)), "plain");
  assert.equal(await textOf(await encrypted(lab.port, { ca })), "encrypted");
  await assert.rejects(encrypted(lab.port), { code: "DEPTH_ZERO_SELF_SIGNED_CERT" });
  writeCertificate(directory);
  await assert.rejects(encrypted(lab.port, { ca }));
  assert.equal(await textOf(await encrypted(lab.port, { ca: makePem(files.certPath) })), "encrypted");
  // Many at a time, half of each kind.
  const answers = await Promise.all(
    Array.from({ length: 60 }, async (_, i) =>
      textOf(await (i % 2 === 0 ? plain(lab.port) : encrypted(lab.port, { ca: makePem(files.certPath) }))),
    ),
  );
  assert.equal(answers.filter((answer) => answer === "plain").length, 30);
  assert.equal(answers.filter((answer) => answer === "encrypted").length, 30);
  await until("connections to end", () => lab.front.connectionCount === 0);
});

function makePem(path: string): string {
  return readFileSync(path, "utf8");
}

void test("plain connections of other machines are refused in words, encrypted ones are not", async (t) => {
  using directory = new TempDirectory();
  const files = writeCertificate(directory);
  const ca = makePem(files.certPath);
  const refusal = Buffer.from(
    "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 4\r\n\r\nno!\n",
  );
  const certificate = ServerCertificate.load(files);
  await t.test("whatever the addresses are", async () => {
    await using lab = new Lab({ refusal, staysHere: () => false }, certificate);
    await lab.front.listen();
    const answer = await plain(lab.port);
    assert.deepEqual([answer.statusCode, await textOf(answer)], [403, "no!\n"]);
    assert.equal(await textOf(await encrypted(lab.port, { ca })), "encrypted");
    assert.deepEqual(lab.failures, ["a client of another machine that does not encrypt"]);
  });
  await t.test("unless the server is told to be insecure", async () => {
    await using lab = new Lab({ refusal, insecure: true, staysHere: () => false }, certificate);
    await lab.front.listen();
    assert.equal(await textOf(await plain(lab.port)), "plain");
  });
  const outside = Object.values(networkInterfaces())
    .flat()
    .find((address) => address?.family === "IPv4" && !address.internal)?.address;
  if (outside === undefined) return;
  await t.test("found out from the addresses", async () => {
    await using lab = new Lab({ refusal, host: "0.0.0.0" }, certificate);
    await lab.front.listen();
    // From an address of the outside to the loopback address: as much from elsewhere as one machine can be.
    assert.equal((await plain(lab.port, { localAddress: outside })).statusCode, 403);
    assert.equal((await plain(lab.port)).statusCode, 200);
  });
});

void test("clients that say nothing, half a handshake or nonsense are cut, and cost nobody else anything", async () => {
  using directory = new TempDirectory();
  const certificate = ServerCertificate.load(writeCertificate(directory));
  await using lab = new Lab({ handshakeTimeoutMs: 300 }, certificate);
  await lab.front.listen();
  const silent = await Promise.all(Array.from({ length: 20 }, () => lab.silent()));
  // The length of a handshake that never comes, and the beginning of one.
  for (const bytes of [[0x16, 3, 1, 0xff, 0xff], [0x16], [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]]) {
    const socket = await lab.silent();
    socket.write(Uint8Array.from(bytes));
    silent.push(socket);
  }
  assert.equal(await textOf(await plain(lab.port)), "plain");
  await Promise.all(silent.map((socket) => closeOf(socket.resume())));
  await until("connections to end", () => lab.front.connectionCount === 0);
  // A client that ends without a word.
  (await lab.silent()).end();
  await until("connections to end", () => lab.front.connectionCount === 0);
  assert.equal(await textOf(await plain(lab.port)), "plain");
});

void test("TLS where there is no certificate", async () => {
  await using lab = new Lab({});
  await lab.front.listen();
  await assert.rejects(encrypted(lab.port), { code: /^(ECONNRESET|EPIPE)$/ });
  assert.deepEqual(lab.failures, ["a TLS handshake, but there is no certificate"]);
  assert.equal(await textOf(await plain(lab.port)), "plain");
});

void test("where there are too many, the oldest gives way that has said nothing; never one that is served", async () => {
  await using lab = new Lab({ connectionsMax: 4 });
  await lab.front.listen();
  const served = await lab.silent();
  served.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  const [first] = await once(served, "data");
  assert.match(String(first), /^HTTP\/1\.1 200/);
  const oldest = await lab.silent();
  await until("the first to be counted", () => lab.front.connectionCount === 2);
  const others = await Promise.all([lab.silent(), lab.silent()]);
  await until("all to be counted", () => lab.front.connectionCount === 4);
  assert.equal(await textOf(await plain(lab.port)), "plain");
  oldest.resume();
  await until("the oldest to be cut", () => oldest.closed);
  assert.deepEqual([served.closed, ...others.map((socket) => socket.closed)], [false, false, false]);
  // With nobody to give way, the new one is turned away.
  await until("the one that was served to end", () => lab.front.connectionCount === 3);
  const last = await lab.silent();
  for (const socket of [...others, last]) {
    const answered = once(socket, "data");
    socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    await answered;
  }
  await assert.rejects(plain(lab.port));
  served.destroy();
  last.destroy();
  for (const socket of others) socket.destroy();
});

void test("a pageserver: HTTPS with the certificate of libpq, tokens as ever, and a stop that ends everything", async () => {
  using directory = new TempDirectory();
  const files = writeCertificate(directory);
  const harness = await Harness.start({ tls: files });
  const port = harness.server.port;
  const ask = (path: string): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const headers = { authorization: `Bearer ${TOKEN}` };
      encryptedRequest(
        { port, path, headers, host: "localhost", agent: false, ca: makePem(files.certPath) },
        resolve,
      )
        .on("error", reject)
        .end();
    });
  assert.equal((await ask("/v1/tenant")).statusCode, 200);
  // Offered protocols: HTTP/1.1 is the one there is.
  const socket = connectTls({
    port,
    host: "127.0.0.1",
    ca: makePem(files.certPath),
    ALPNProtocols: ["h2", "http/1.1"],
  });
  await once(socket, "secureConnect");
  assert.equal(socket.alpnProtocol, "http/1.1");
  const idle = connect({ port, host: "127.0.0.1" });
  await once(idle, "connect");
  for (const each of [socket, idle]) each.on("error", () => undefined);
  const closed = Promise.all([closeOf(socket.resume()), closeOf(idle.resume())]);
  await harness[Symbol.asyncDispose]();
  await closed;
});
