/**
 * Plays a tour (`tour.ts`) in a temporary repository: prints each command before what it prints, checks that the outputs
 * are those that were shown, and leaves nothing running and no files behind, however it ends.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { styleText } from "node:util";
import { type LsnNames, type Step, comparable, learnLsn, substituteLsns } from "./tour.ts";

const ROOT = dirname(import.meta.dirname);
/** How often a command that was interrupted is told again. */
const REMINDER_MS = 500;
/** No command of the tour takes longer, even on a slow machine. */
const COMMAND_TIMEOUT_MS = 180_000;

interface Outcome {
  /** -1 if a signal ended it. */
  readonly code: number;
  readonly stdout: string;
}

/** A temporary directory with a repository in it, and how commands are run there. */
class Workshop {
  /** Where everything is, removed at the end. */
  private readonly directory: string;
  /** Where the user of the tour works. */
  private readonly project: string;
  private readonly environment: NodeJS.ProcessEnv;
  private child: ChildProcess | undefined;
  private clearing = false;
  /** The signal that ends the tour early. */
  interruption: NodeJS.Signals | undefined;

  constructor() {
    this.directory = realpathSync(mkdtempSync(join(tmpdir(), "neon-quickstart-")));
    // Started by root, Postgres runs as another user, who must be able to enter.
    chmodSync(this.directory, 0o755);
    const make = (name: string, mode = 0o755): string => {
      const path = join(this.directory, name);
      mkdirSync(path);
      chmodSync(path, mode);
      return path;
    };
    this.project = make("shop");
    const programs = make("bin");
    const temporary = make("tmp", 0o1777);
    writeFileSync(join(programs, "neon"), neonScript(), { mode: 0o755 });
    this.environment = {
      ...cleanEnvironment(),
      HOME: make("home"),
      PATH: [programs, process.env["PATH"] ?? ""].join(delimiter),
      TMPDIR: temporary,
      // Ports are the machine's: what other repositories have is not to be taken.
      NEON_PORTS_DIR: process.env["NEON_PORTS_DIR"] || tmpdir(),
      NODE_COMPILE_CACHE: join(temporary, "compile-cache"),
      PSQLRC: "/dev/null",
    };
  }

  /** Runs a command and prints what it prints; stdout is kept as well. */
  run(command: string, options: { quiet?: boolean } = {}): Promise<Outcome> {
    return new Promise((fulfil, reject) => {
      const child = spawn("sh", ["-c", command], {
        cwd: this.project,
        env: this.environment,
        stdio: ["ignore", "pipe", options.quiet ? "ignore" : "inherit"],
        // A process group of its own, so that signals reach the command and not only the shell.
        detached: true,
      });
      this.child = child;
      const timer = setTimeout(() => signalGroup(child, "SIGKILL"), COMMAND_TIMEOUT_MS);
      const chunks: Buffer[] = [];
      child.stdout.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        if (!options.quiet) process.stdout.write(chunk);
      });
      child.on("error", reject);
      // A shell that is just starting may miss a signal, so it is sent again until it has been heard.
      const reminder = setInterval(() => {
        if (this.interruption && !this.clearing) signalGroup(child, this.interruption);
      }, REMINDER_MS);
      child.on("close", (code) => {
        clearTimeout(timer);
        clearInterval(reminder);
        this.child = undefined;
        fulfil({ code: code ?? -1, stdout: Buffer.concat(chunks).toString() });
      });
    });
  }

  /** The running command ends soon; no other is to be started. What clears up is left alone. */
  interrupt(signal: NodeJS.Signals): void {
    this.interruption ??= signal;
    if (this.child && !this.clearing) signalGroup(this.child, signal);
  }

  /** Throws if anything of the repository still runs. */
  async checkStopped(): Promise<void> {
    const { code, stdout } = await this.run("neon status --json", { quiet: true });
    const status = JSON.parse(stdout) as { pageserver: { state: string }; computes: { state: string }[] };
    const running = [status.pageserver, ...status.computes].filter(({ state }) => state !== "stopped");
    if (code !== 0 || running.length > 0) throw new Error(`the tour left something running: ${stdout}`);
  }

  /** Stops what runs and removes all files. */
  async clear(): Promise<void> {
    this.clearing = true;
    if (existsSync(join(this.project, ".neon"))) {
      const { code } = await this.run("neon stop --force --json", { quiet: true });
      if (code !== 0 && existsSync(join(this.project, ".neon", "config.toml"))) {
        throw new Error(
          `what runs in ${this.project} cannot be stopped: run \`neon stop --force\` there and remove it`,
        );
      }
    }
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It has just ended.
  }
}

/** `neon` as a program on the search path: what `npm link` makes. */
function neonScript(): string {
  const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
  return `#!/bin/sh\nexec ${quote(process.execPath)} ${quote(join(ROOT, "bin", "neon.js"))} "$@"\n`;
}

/** Nothing that the user has set for neon or Postgres elsewhere may change what the tour does. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^(?:NEON_|PG|XDG_)/.test(name));
  return Object.fromEntries(kept);
}

async function play(steps: readonly Step[], workshop: Workshop): Promise<void> {
  const names: LsnNames = new Map();
  for (const step of steps) {
    const command = substituteLsns(step.command, names);
    process.stdout.write(`${styleText("bold", `$ ${command}`, { stream: process.stdout })}\n`);
    const { code, stdout } = await workshop.run(command);
    if (workshop.interruption) return;
    if (code !== 0) {
      const how = code < 0 ? "by a signal" : `with exit code ${code}`;
      throw new Error(`\`${command}\` ended ${how}`);
    }
    compare(step, stdout);
    learnLsn(step, stdout, names);
    if (!stdout.endsWith("\n\n")) process.stdout.write("\n");
  }
}

function compare(step: Step, stdout: string): void {
  if (step.output.length === 0) return;
  const shown = comparable(step.output.join("\n")).join("\n");
  const printed = comparable(stdout).join("\n");
  if (printed === shown) return;
  throw new Error(
    `\`${step.command}\` printed something else than the README shows, which is\n${step.output.join("\n")}`,
  );
}

/**
 * Plays the steps. Returns the signal that ended it early, if one did; throws if a step or its output is not as it should
 * be. Either way everything has been cleared up.
 */
export async function playTour(steps: readonly Step[]): Promise<NodeJS.Signals | undefined> {
  const workshop = new Workshop();
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  const interrupt = (signal: NodeJS.Signals): void => {
    workshop.interrupt(signal);
  };
  // Nobody reads any more, as in `npm run quickstart | head`.
  const onBrokenPipe = (): void => {
    workshop.interrupt("SIGINT");
  };
  for (const signal of signals) process.on(signal, interrupt);
  process.stdout.on("error", onBrokenPipe);
  try {
    await play(steps, workshop);
    if (workshop.interruption === undefined) await workshop.checkStopped();
  } finally {
    await workshop.clear();
    for (const signal of signals) process.off(signal, interrupt);
    process.stdout.off("error", onBrokenPipe);
  }
  return workshop.interruption;
}
