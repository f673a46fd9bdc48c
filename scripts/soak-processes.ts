/** The processes and the directories of a soak: rounds as children, and nothing of them left behind. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { ChildMessage } from "./soak-child.ts";
import type { SoakChoice } from "./soak-plan.ts";
import type { RoundResult } from "./soak-round.ts";

const TEMPORARY = "/tmp";
const PREFIX = "neon-soak-";
/** Who made the directory: process id and start time. */
const OWNER_FILE = "owner";
/** No round takes longer than that, even on a machine with much else to do. */
const ROUND_MS_MAX = 45 * 60_000;
const ERROR_CHARS = 4000;

export type RoundOutcome =
  | { readonly kind: "equal"; readonly result: RoundResult }
  /** A difference, or an error that is as bad. */
  | { readonly kind: "failed"; readonly error: string }
  /** It was ended from outside, or never ended. */
  | { readonly kind: "lost"; readonly error: string };

/** A directory for everything that rounds make. Removes those of soaks that are gone first. */
export function makeDirectory(): string {
  for (const name of readdirSync(TEMPORARY)) {
    const directory = join(TEMPORARY, name);
    if (name.startsWith(PREFIX) && !isOwned(directory)) removeDirectory(directory);
  }
  const directory = mkdtempSync(join(TEMPORARY, PREFIX));
  // Postgres runs as another user.
  chmodSync(directory, 0o755);
  writeFileSync(join(directory, OWNER_FILE), stampOf(process.pid) ?? "");
  return directory;
}

/** Kills what still runs in the directory, and removes it. */
export function removeDirectory(directory: string): void {
  for (const pid of processesIn(directory)) sendKill(pid);
  rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
}

function isOwned(directory: string): boolean {
  const file = join(directory, OWNER_FILE);
  if (!existsSync(file)) return false;
  const stamp = readFileSync(file, "utf8");
  return stamp !== "" && stamp === stampOf(Number(stamp.split(" ")[0]));
}

/** A process by id and start time; undefined if there is none. */
function stampOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return `${pid} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? ""}`;
  } catch {
    return undefined;
  }
}

/** Postgres' processes work in their data directory. */
function processesIn(directory: string): number[] {
  const found: number[] = [];
  for (const name of existsSync("/proc") ? readdirSync("/proc") : []) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (readlinkSync(`/proc/${name}/cwd`).startsWith(`${directory}/`)) found.push(Number(name));
    } catch {
      // Gone meanwhile, or not ours.
    }
  }
  return found;
}

/** Rounds under way. */
export class Rounds {
  private readonly directory: string;
  private readonly children = new Set<ChildProcess>();

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Runs a round to its end, whatever that is. */
  async run(
    choice: SoakChoice & { untilMs: number },
    progress: (what: string) => void,
  ): Promise<RoundOutcome> {
    const directory = mkdtempSync(join(this.directory, "r"));
    chmodSync(directory, 0o755);
    const child = fork(join(import.meta.dirname, "soak-child.ts"), [JSON.stringify(choice)], {
      env: { ...process.env, NEON_TEST_TMPDIR: directory },
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      // A group of its own, so that the programs that it starts can be ended with it.
      detached: true,
    });
    this.children.add(child);
    const timer = setTimeout(() => {
      killGroup(child);
    }, ROUND_MS_MAX);
    try {
      return await outcomeOf(child, progress);
    } finally {
      clearTimeout(timer);
      this.children.delete(child);
      removeDirectory(directory);
    }
  }

  /** Asks all to end after the pair that they are at. */
  ask(): void {
    for (const child of this.children) if (child.connected) child.send("stop");
  }

  /** Ends all at once; synchronous, for when this process ends. */
  kill(): void {
    for (const child of this.children) killGroup(child);
    removeDirectory(this.directory);
  }
}

function killGroup(child: ChildProcess): void {
  if (child.pid !== undefined) sendKill(-child.pid);
}

function sendKill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Gone meanwhile.
  }
}

async function outcomeOf(child: ChildProcess, progress: (what: string) => void): Promise<RoundOutcome> {
  let outcome: RoundOutcome | undefined;
  let errors = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    errors = (errors + text).slice(-ERROR_CHARS);
  });
  child.on("message", (message) => {
    const said = message as ChildMessage;
    if (said.kind === "progress") progress(said.what);
    else outcome = said;
  });
  try {
    await once(child, "close");
  } catch (error) {
    return { kind: "lost", error: String(error) };
  }
  const how = child.signalCode ?? `exit code ${child.exitCode}`;
  return outcome ?? { kind: "lost", error: `its process ended with ${how}\n${errors}`.trim() };
}
