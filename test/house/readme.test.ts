/** What the README says is true: its tour is played, its tables are compared with the code. Needs `npm run build`. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { WalRecord } from "../../src/postgres/wal/record.ts";
import { checkSupported } from "../../src/pageserver/ingest/ingest-rmgr.ts";
import { parsePoint } from "../../src/repository/point.ts";
import { comparable, learnLsn, parseTour, substituteLsns } from "../../scripts/tour.ts";
import { ROOT, filesBelow, packageSection, read } from "./project-files.ts";

const QUICKSTART = join(ROOT, "scripts", "quickstart.ts");
/** A user who may do nothing special, on every system that has it. */
const NOBODY = 65_534;

interface Played {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface PlayOptions {
  /** The README to play; the project's unless given. */
  readonly readme?: string;
  readonly uid?: number;
  readonly path?: string;
  /** Ctrl-C once this has been printed. */
  readonly interruptAfter?: string;
}

/** Runs the quickstart with a TMPDIR of its own and checks that nothing is left of it. */
async function playQuickstart(t: TestContext, options: PlayOptions = {}): Promise<Played> {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), "neon-readme-")));
  t.after(() => {
    rmSync(directory, { recursive: true, force: true });
  });
  chmodSync(directory, 0o755);
  const temporary = join(directory, "tmp");
  mkdirSync(temporary);
  if (options.uid !== undefined) chownSync(temporary, options.uid, options.uid);
  const readme = join(directory, "README.md");
  writeFileSync(readme, options.readme ?? read("README.md"));
  const child = spawn(process.execPath, [QUICKSTART, readme], {
    cwd: ROOT,
    env: {
      ...process.env,
      TMPDIR: temporary,
      NEON_PORTS_DIR: tmpdir(),
      ...(options.path === undefined ? {} : { PATH: options.path }),
    },
    stdio: ["ignore", "pipe", "pipe"],
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const interrupting = setInterval(() => {
    if (options.interruptAfter === undefined || !stdout.includes(options.interruptAfter)) return;
    // Once: a signal to a program that is just ending, and listens no more, would decide how it ends.
    clearInterval(interrupting);
    child.kill("SIGINT");
  }, 100);
  const [code] = (await once(child, "close")) as [number | null];
  clearInterval(interrupting);
  assert.deepEqual(readdirSync(temporary), [], "files that were left behind");
  const processes = spawnSync("ps", ["-eo", "pid=,args="], { encoding: "utf8" });
  assert.equal(processes.status, 0, "ps");
  const left = processes.stdout.split("\n").filter((line) => line.includes(temporary));
  assert.deepEqual(left, [], "processes that were left running");
  return { code, stdout, stderr };
}

function tourOf(lines: string): string {
  return `# Test\n\n<!-- tour -->\n\n\`\`\`console\n${lines}\n\`\`\`\n`;
}

/** The commands in what a quickstart printed. */
function commandsIn(stdout: string): string[] {
  return stdout
    .split("\n")
    .filter((line) => line.startsWith("$ "))
    .map((line) => line.slice(2));
}

/** Checks that every command of the README was run and printed what is shown. The quickstart does so itself; who checks it? */
function checkPlayed(played: Played): void {
  assert.equal(played.code, 0, played.stderr + played.stdout);
  const steps = parseTour(read("README.md"));
  const sections = played.stdout.split(/^\$ .*\n/m).slice(1);
  assert.equal(sections.length, steps.length);
  const names = new Map<string, string>();
  const ran = commandsIn(played.stdout);
  steps.forEach((step, index) => {
    assert.equal(ran[index], substituteLsns(step.command, names));
    learnLsn(step, sections[index] ?? "", names);
    const printed = comparable(sections[index] ?? "").filter((line) => !line.startsWith("The tour is over"));
    if (step.output.length > 0) assert.deepEqual(printed, comparable(step.output.join("\n")), step.command);
  });
}

test("the tour of the README does what it shows", async (t) => {
  const steps = parseTour(read("README.md"));
  assert.ok(steps.length >= 15, `only ${steps.length} commands: the wrong block was read`);
  checkPlayed(await playQuickstart(t));
});

test("the same as an ordinary user, without psql", async (t) => {
  if (userInfo().uid !== 0) return t.skip("this test is run by an ordinary user, and so was the one before");
  const mayRead = spawnSync(process.execPath, ["--check", QUICKSTART], { uid: NOBODY, gid: NOBODY });
  if (mayRead.status !== 0) return t.skip("an ordinary user may not read this checkout");
  const programs = realpathSync(mkdtempSync(join(tmpdir(), "neon-readme-bin-")));
  t.after(() => {
    rmSync(programs, { recursive: true, force: true });
  });
  chmodSync(programs, 0o755);
  for (const name of ["sh", "sleep"]) {
    const { stdout } = spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" });
    symlinkSync(stdout.trim(), join(programs, name));
  }
  checkPlayed(await playQuickstart(t, { uid: NOBODY, path: programs }));
});

test("a quickstart that fails says so and clears up", async (t) => {
  const failing = await playQuickstart(t, {
    readme: tourOf("$ neon init\n$ neon pg url nobody\n$ neon stop"),
  });
  assert.equal(failing.code, 1);
  assert.match(failing.stderr, /`neon pg url nobody` ended with exit code 3/);
  assert.deepEqual(commandsIn(failing.stdout), ["neon init", "neon pg url nobody"]);

  const running = await playQuickstart(t, { readme: tourOf("$ neon init") });
  assert.equal(running.code, 1);
  assert.match(running.stderr, /left something running/);

  const different = await playQuickstart(t, { readme: tourOf("$ echo one\ntwo") });
  assert.equal(different.code, 1);
  assert.match(different.stderr, /printed something else/);

  const empty = await playQuickstart(t, { readme: "# No tour\n" });
  assert.equal(empty.code, 1);
});

test("a quickstart that is interrupted clears up", async (t) => {
  const readme = tourOf("$ neon init\n$ sleep 600\n$ neon stop");
  const played = await playQuickstart(t, { readme, interruptAfter: "$ sleep 600" });
  assert.equal(played.code, 130, played.stderr);
  assert.deepEqual(commandsIn(played.stdout), ["neon init", "sleep 600"]);
});

test("how a tour is read", () => {
  const steps = parseTour(tourOf("$ one --flag   # why\n$ two '# not'\n a  b\n\n$ three"));
  assert.deepEqual(steps, [
    { command: "one --flag", output: [] },
    { command: "two '# not'", output: [" a  b"] },
    { command: "three", output: [] },
  ]);
  assert.throws(() => parseTour("$ neon init"), /no block/);
  assert.throws(() => parseTour(tourOf("text")), /no command/);
});

test("LSNs of the README stand for those that were printed", () => {
  const names = new Map<string, string>();
  const shown = { command: 'neon pg psql main -c "SELECT lsn"', output: [" lsn", "-----", " 0/1A2B"] };
  assert.throws(() => substituteLsns("neon branch x main@0/1A2B", names), /prints 0\/1A2B/);
  learnLsn({ ...shown, command: "neon branch x" }, "x at 0/9999", names);
  assert.equal(names.size, 0);
  learnLsn(shown, " lsn\n-----\n 1/22FF0\n(1 row)\n", names);
  assert.equal(substituteLsns("neon branch x main@0/1A2B", names), "neon branch x main@1/22FF0");
});

test("what may differ between outputs and what may not", () => {
  const shown = "main  running  127.0.0.1:55432  0/1A2B  19.3 MiB  process 12\n/home/ada/shop/.neon";
  const printed = "main   running  127.0.0.1:1  1/FF  0 B  process 4711\n/tmp/x/.neon\n";
  assert.deepEqual(comparable(printed), comparable(shown));
  for (const other of ["main  stopped", "main  running  127.0.0.2:55432", "dev"]) {
    assert.notDeepEqual(comparable(printed.replace(/main.*/, other)), comparable(shown));
  }
  const table = " id | owner \n----+-------\n  1 | ada\n(1 row)\n\n";
  assert.deepEqual(comparable(table), comparable("id  owner\n1   ada\n(1 row)"));
  assert.notDeepEqual(comparable(table), comparable("id  owner\n2   ada\n(1 row)"));
});

test("the points that the README lists are points", () => {
  const rows = [...read("README.md").matchAll(/^\| `([^`]+)` \|/gm)].map((match) => match[1] ?? "");
  const points = rows.filter((cell) => cell.startsWith("main") || /^[0-9a-f]{32}$/.test(cell));
  assert.equal(points.length, 5);
  const kinds = points.map((point) => parsePoint(point, Date.UTC(2026, 10, 22)));
  assert.deepEqual(
    kinds.map(({ source, at }) => `${source.kind} ${at.kind}`),
    ["branch end", "branch lsn", "branch timestamp", "branch timestamp", "timeline end"],
  );
});

/** What users call the things whose WAL a resource manager writes. */
const RMGR_WORDS: Readonly<Record<string, string>> = {
  Tblspc: "tablespaces",
  Hash: "hash",
  Gin: "GIN",
  Gist: "GiST",
  Spgist: "SP-GiST",
  Brin: "BRIN",
  CommitTs: "`track_commit_timestamp`",
  ReplOrigin: "replication origins",
};

test("the README names every resource manager that is not supported, and no other", () => {
  const limits = /Not yet: ([^]*?)\. /.exec(read("README.md"))?.[1] ?? "";
  const words = new Set(limits.split(/,\s+|\s+and\s+|\s+indexes/).map((word) => word.trim()));
  for (const [name, rmgr] of Object.entries(Rmgr)) {
    const record = new WalRecord();
    record.rmgr = rmgr;
    let message = "";
    try {
      checkSupported(record, versionByMajor(17));
    } catch (error) {
      message = error instanceof Error ? error.message : "";
    }
    const unsupported = message.includes("resource manager");
    const word = RMGR_WORDS[name] ?? name;
    assert.equal(words.has(word), unsupported, `${name}: ${message === "" ? "supported" : message}`);
  }
});

test("the README lists all commands and no others", () => {
  const section = /^## Commands\n([^]*?)^## /m.exec(read("README.md"))?.[1] ?? "";
  const cells = [...section.matchAll(/^\|(.*?)\|/gm)].map((match) => match[1] ?? "").join(" ");
  const listed = [...cells.matchAll(/`neon ([a-z -]+)`/g)].map((match) => match[1] ?? "");
  const commands = filesBelow("src/commands", ".ts")
    .filter((path) => !path.startsWith("src/commands/shared/"))
    .map((path) => path.slice("src/commands/".length, -".ts".length).replaceAll("/", " "));
  assert.ok(commands.length > 10);
  assert.deepEqual(listed.sort(), commands.sort());
});

test("what the README runs with npm is a script of package.json", () => {
  const scripts = packageSection("scripts");
  const named = [...read("README.md").matchAll(/`?npm (?:run ([a-z]+)|(test))\b/g)].map(
    (m) => m[1] ?? m[2] ?? "",
  );
  assert.ok(named.includes("quickstart") && named.includes("test"));
  for (const name of named) assert.ok(Object.hasOwn(scripts, name), `npm script "${name}"`);
});
