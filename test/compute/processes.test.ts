import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { bootId, processesWorkingIn, readProcessIdentity } from "../../src/compute/process-identity.ts";
import { findPostmaster } from "../../src/compute/postmaster.ts";
import { checkExecutable, checkReachable, chooseRunAs } from "../../src/compute/run-as.ts";
import { TemporaryDirectory } from "./support.ts";

const isRoot = process.getuid?.() === 0;

describe("process identity", () => {
  it("names a process and tells when it has gone", async () => {
    const child = sleeper();
    const pid = await pidOf(child);
    const identity = readProcessIdentity(pid);
    assert.deepEqual(identity?.commandLine, ["sleep", "1000"]);
    assert.equal(readProcessIdentity(pid)?.startTime, identity?.startTime);
    await end(child);
    assert.equal(readProcessIdentity(pid), undefined);
    for (const nonsense of [0, -1, 1.5, Number.NaN, 2 ** 40])
      assert.equal(readProcessIdentity(nonsense), undefined);
  });

  it("takes a zombie for gone", async () => {
    // The shell does not wait for the child whose number it prints, so the child stays a zombie until the shell ends.
    const shell = spawn("/bin/sh", ["-c", "sh -c 'exit 0' & echo $!; exec sleep 1000"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [line] = (await once(shell.stdout, "data")) as [Buffer];
    const pid = Number(line.toString());
    while (readProcessIdentity(pid)) await new Promise(setImmediate);
    await end(shell);
  });

  it("finds the processes that work in a directory", async () => {
    using temporary = new TemporaryDirectory();
    const directory = realpathSync(temporary.path);
    assert.deepEqual(processesWorkingIn(directory), []);
    const child = sleeper(directory);
    const pid = await pidOf(child);
    assert.deepEqual(processesWorkingIn(directory), [pid]);
    await end(child);
    assert.deepEqual(processesWorkingIn(directory), []);
  });

  it("has a boot id that stays", () => {
    assert.match(bootId(), /^[\w-]{6,}$/);
    assert.equal(bootId(), bootId());
  });
});

describe("postmaster.pid", () => {
  it("is believed only when the process is that postgres", async () => {
    using temporary = new TemporaryDirectory();
    const pgdata = realpathSync(temporary.path);
    const write = (pid: number | string): void =>
      writeFileSync(join(pgdata, "postmaster.pid"), `${pid}\n${pgdata}\n1\n5432\n\n\n\nready\n`);
    assert.equal(findPostmaster(pgdata, null), undefined);
    for (const pid of [process.pid, 1, 0, "", "x"]) {
      write(pid);
      assert.equal(findPostmaster(pgdata, null), undefined, `pid ${pid}`);
    }
    // Something that calls itself postgres, once on this directory and once on another.
    const impostor = spawn(process.execPath, ["-e", "setTimeout(() => {}, 1e6)", "--", "-D", pgdata], {
      argv0: "/somewhere/bin/postgres",
      stdio: "ignore",
    });
    const other = spawn(process.execPath, ["-e", "setTimeout(() => {}, 1e6)", "--", "-D", "/elsewhere"], {
      argv0: "/somewhere/bin/postgres",
      stdio: "ignore",
    });
    try {
      const pid = await pidOf(impostor);
      write(pid);
      assert.equal(findPostmaster(pgdata, null), pid);
      const startTime = readProcessIdentity(pid)?.startTime ?? "";
      assert.equal(findPostmaster(pgdata, { pid, startTime, bootId: bootId() }), pid);
      assert.equal(findPostmaster(pgdata, { pid, startTime: "0", bootId: bootId() }), undefined);
      assert.equal(findPostmaster(pgdata, { pid, startTime, bootId: "another" }), undefined);
      write(await pidOf(other));
      assert.equal(findPostmaster(pgdata, null), undefined);
    } finally {
      await end(impostor);
      await end(other);
    }
  });
});

describe("the user that Postgres runs as", () => {
  it("is nobody else unless we are root", { skip: isRoot }, () => {
    assert.equal(chooseRunAs(), undefined);
  });

  it("is unprivileged and exists", { skip: !isRoot }, () => {
    const user = chooseRunAs();
    assert.ok(user && user.uid > 0 && user.gid > 0);
    assert.equal(chooseRunAs("nobody")?.name, "nobody");
    assert.throws(() => chooseRunAs("root"), isResource(/superuser/));
    assert.throws(() => chooseRunAs("no-such-user"), isResource(/no user "no-such-user"/));
  });

  it("must be able to come through: the directory in the way is named", { skip: !isRoot }, () => {
    using temporary = new TemporaryDirectory();
    const user = chooseRunAs();
    const closed = join(temporary.path, "closed");
    const inner = join(closed, "a", "b");
    mkdirSync(inner, { recursive: true });
    checkReachable(inner, user);
    checkReachable(inner, undefined);
    chmodSync(closed, 0o700);
    assert.throws(() => checkReachable(inner, user), isResource(new RegExp(`${closed}$`)));
    chmodSync(closed, 0o711);
    checkReachable(inner, user);
  });

  it("must be able to run the programs", { skip: !isRoot }, () => {
    using temporary = new TemporaryDirectory();
    const user = chooseRunAs();
    const program = join(temporary.path, "program");
    writeFileSync(program, "");
    chmodSync(program, 0o750);
    assert.throws(() => checkExecutable(program, user), isResource(/may not read and execute/));
    chmodSync(program, 0o755);
    checkExecutable(program, user);
    chmodSync(temporary.path, 0o700);
    assert.throws(() => checkExecutable(program, user), isResource(/may not enter/));
  });
});

function sleeper(cwd?: string): ChildProcess {
  return spawn("sleep", ["1000"], { stdio: "ignore", ...(cwd === undefined ? {} : { cwd }) });
}

async function pidOf(child: ChildProcess): Promise<number> {
  assert.ok(child.pid !== undefined);
  // Until the new program has replaced the copy of ours; in between a process has no command line for a moment.
  const program = (pid: number): string | undefined => readProcessIdentity(pid)?.commandLine[0];
  for (let name = program(child.pid); !name || name === process.execPath; name = program(child.pid)) {
    await new Promise(setImmediate);
  }
  return child.pid;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
}

function isResource(message: RegExp): (error: unknown) => boolean {
  return (error) =>
    error instanceof NeonError && error.code === ErrorCode.Resource && message.test(error.message);
}
