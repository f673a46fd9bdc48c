/** The pageserver as a child process. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { TOKEN, type TempDirectory } from "./harness.ts";

/** A child that is killed and waited for at the end of the test. */
export class Child implements AsyncDisposable {
  readonly workdir: string;
  private readonly child: ChildProcess;
  private readonly ended: Promise<unknown>;
  output = "";
  log = "";

  constructor(program: string, workdir: string, args: readonly string[] = ["--workdir", workdir]) {
    this.workdir = workdir;
    const path = join(import.meta.dirname, program);
    this.child = spawn(process.execPath, [path, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    this.ended = once(this.child, "close");
    this.child.stdout?.on("data", (data) => (this.output += String(data)));
    this.child.stderr?.on("data", (data) => (this.log += String(data)));
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  /** Its address, once it is ready. */
  async ready(): Promise<string> {
    const deadline = performance.now() + 20_000;
    for (;;) {
      assert.ok(performance.now() < deadline && this.child.exitCode === null, `ready; its log: ${this.log}`);
      const pidFile = readJson(join(this.workdir, "pageserver.pid"));
      if (pidFile?.["pid"] === this.pid) {
        const url = `http://${String(pidFile["listen"])}`;
        const status: unknown = JSON.parse(await (await fetch(`${url}/v1/status`)).text());
        if (typeof status === "object" && status !== null && "state" in status && status.state === "ready") {
          return url;
        }
      }
      await sleep(10);
    }
  }

  /** Exit code or signal. */
  async end(): Promise<number | string | null> {
    await this.ended;
    return this.child.exitCode ?? this.child.signalCode;
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** The last line of the log that says why it ended. */
  get lastWords(): Record<string, unknown> {
    const lines = this.log.split("\n").filter((line) => line.startsWith("{"));
    return lines.map((line) => JSON.parse(line)).findLast((line) => line.level === 60) ?? {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended;
  }
}

/** A JSON object in a file, if there is one. */
export function readJson(path: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

/** Writes pageserver.toml: any free port, the token of the tests, and these lines. Returns the directory. */
export function configure(directory: TempDirectory, lines = ""): string {
  const text = `listen = "127.0.0.1:0"\nauth_token = "${TOKEN}"\n${lines}`;
  writeFileSync(join(directory.path, "pageserver.toml"), text);
  return directory.path;
}
