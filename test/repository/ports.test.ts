import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { portIsFree, reservePort } from "../../src/repository/ports.ts";
import { temporaryDirectory } from "./support.ts";

const CHILD = join(import.meta.dirname, "lock-child.ts");

async function listenSomewhere(t: TestContext, host: string): Promise<number> {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
  });
  server.listen(0, host);
  await once(server, "listening");
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

test("a port that somebody listens on is not free, on whatever address", async (t) => {
  for (const host of ["127.0.0.1", "0.0.0.0"]) {
    const port = await listenSomewhere(t, host);
    assert.equal(await portIsFree(port), false, host);
    const { port: next, release } = await reservePort({ first: port });
    assert.notEqual(next, port);
    release();
    await assert.rejects(
      reservePort({ first: 1, wanted: port }),
      (error) =>
        error instanceof NeonError &&
        error.code === ErrorCode.Resource &&
        error.message.includes(String(port)),
    );
  }
});

test("a reserved port is not given away twice, a released one is", async (t) => {
  const base = await listenSomewhere(t, "127.0.0.1");
  const first = await reservePort({ first: base });
  const second = await reservePort({ first: base });
  assert.notEqual(first.port, second.port);
  first.release();
  const again = await reservePort({ first: base, wanted: first.port });
  assert.equal(again.port, first.port);
  const third = await reservePort({ first: base, avoid: new Set([second.port + 1]) });
  assert.notEqual(third.port, second.port + 1);
  for (const { release } of [again, second, third]) release();
});

test("a port whose owner is not running is passed over, until the owner is gone", async (t) => {
  const directory = temporaryDirectory(t);
  const owner = join(directory, "owner");
  writeFileSync(owner, "");
  const base = await listenSomewhere(t, "127.0.0.1");
  const first = await reservePort({ first: base, owner });
  first.release();
  const other = await reservePort({ first: base });
  other.release();
  assert.notEqual(other.port, first.port);
  const again = await reservePort({ first: base, owner });
  again.release();
  assert.equal(again.port, first.port);
  rmSync(owner);
  const last = await reservePort({ first: base });
  last.release();
  assert.equal(last.port, first.port);
});

test("processes that ask at once get different ports", async (t) => {
  const base = await listenSomewhere(t, "127.0.0.1");
  const ports = await Promise.all(
    [1, 2, 3, 4].map(async () => {
      const child = spawn(process.execPath, [CHILD, "port", String(base)], {
        stdio: ["pipe", "pipe", "inherit"],
      });
      t.after(async () => {
        child.stdin.end();
        if (child.exitCode === null) await once(child, "exit");
      });
      const [line] = (await once(child.stdout, "data")) as [Buffer];
      return Number(line.toString());
    }),
  );
  assert.equal(new Set(ports).size, 4, ports.join(" "));
});

test("what is no port is a usage error", async () => {
  for (const wanted of [0, -1, 65_536, 1.5, Number.NaN]) {
    await assert.rejects(
      reservePort({ first: 1, wanted }),
      (error) => error instanceof NeonError && error.code === ErrorCode.Usage,
    );
  }
});

test("a port that only an outgoing connection holds is waited for, one with a server is not", async (t) => {
  const serverPort = await listenSomewhere(t, "127.0.0.1");
  const outgoing = connect({ port: serverPort, host: "127.0.0.1" });
  t.after(() => outgoing.destroy());
  await once(outgoing, "connect");
  const port = outgoing.localPort ?? 0;
  await assert.rejects(reservePort({ first: port, wanted: port }), { code: "resource" });
  const waiting = reservePort({ first: port, wanted: port, patienceMs: 20_000 });
  outgoing.resetAndDestroy();
  const reserved = await waiting;
  assert.equal(reserved.port, port);
  reserved.release();
  const started = performance.now();
  const inUse = reservePort({ first: serverPort, wanted: serverPort, patienceMs: 60_000 });
  await assert.rejects(inUse, { code: "resource" });
  assert.ok(performance.now() - started < 30_000, "it did not wait for a server to go away");
});

test("an owner keeps a port for each purpose, and one only", async (t) => {
  const owner = join(temporaryDirectory(t), "owner");
  writeFileSync(owner, "");
  const base = await listenSomewhere(t, "127.0.0.1");
  const reserve = async (purpose: string): Promise<number> => {
    const { port, release } = await reservePort({ first: base, owner, purpose });
    release();
    return port;
  };
  const strange = async (): Promise<number> => {
    const { port, release } = await reservePort({ first: base });
    release();
    return port;
  };
  const one = await reservePort({ first: base, owner, purpose: "one" });
  const two = await reservePort({ first: base, owner, purpose: "two" });
  one.release();
  two.release();
  assert.ok((await strange()) > two.port, "both are passed over");
  // Another port for the second purpose gives the one before back.
  const next = await reservePort({ first: two.port + 1, owner, purpose: "two" });
  next.release();
  assert.equal(await strange(), two.port);
  assert.equal(await reserve("one"), one.port);
});

test("what belongs to another user is passed over as well", async (t) => {
  const shared = temporaryDirectory(t);
  chmodSync(shared, 0o1777);
  process.env["NEON_PORTS_DIR"] = shared;
  t.after(() => {
    delete process.env["NEON_PORTS_DIR"];
  });
  // Root alone can be somebody else; for others it is two processes of one user.
  const somebody = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
  const base = await listenSomewhere(t, "127.0.0.1");
  const closed = join(shared, "closed");
  mkdirSync(closed, { mode: 0o700 });
  const owner = join(closed, "owner");
  writeFileSync(owner, "");
  const ours = await reservePort({ first: base, owner });
  ours.release();

  const theirOwner = join(shared, "their-owner");
  writeFileSync(theirOwner, "");
  const child = spawn(process.execPath, [CHILD, "port", String(base), theirOwner], {
    ...somebody,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const theirs = Number(line.toString());
  assert.ok(theirs > ours.port, "what is noted for an owner that they cannot see");
  await assert.rejects(reservePort({ first: 1, wanted: theirs }), { code: "resource" }, "it is locked");
  child.stdin.end();
  await once(child, "exit");
  const next = await reservePort({ first: ours.port + 1 });
  next.release();
  assert.ok(next.port > theirs, "what they have noted");
  rmSync(theirOwner);
  const last = await reservePort({ first: ours.port + 1 });
  last.release();
  assert.equal(last.port, theirs);
});

test("whatever lies in another user's directory, nothing waits for it", async (t) => {
  const shared = temporaryDirectory(t);
  process.env["NEON_PORTS_DIR"] = shared;
  t.after(() => {
    delete process.env["NEON_PORTS_DIR"];
  });
  const base = await listenSomewhere(t, "127.0.0.1");
  const port = base + 1;
  for (const user of [process.getuid?.() ?? 0, 4_000_000]) {
    const owners = join(shared, `neon-ports-${user}`, "owners");
    mkdirSync(owners, { recursive: true });
    if (process.getuid?.() === 0) chownSync(join(shared, `neon-ports-${user}`), user, user);
    execFileSync("mkfifo", [join(owners, String(port))]);
    symlinkSync("/dev/zero", join(owners, String(port + 1)));
    writeFileSync(join(owners, String(port + 2)), "/".repeat(100_000));
    mkdirSync(join(owners, String(port + 3)));
    if (user === 4_000_000) writeFileSync(join(shared, `neon-ports-${user}`, String(port)), "no directory");
  }
  const { port: found, release } = await reservePort({ first: port });
  release();
  assert.ok(found >= port && found < port + 100, `port ${found}`);
});
