/** The pageserver as a child process that may be killed at any moment, and its HTTP API. Needs `npm run build`. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const PROGRAM = fileURLToPath(new URL("../../bin/pageserver.js", import.meta.url));
const READY_MS_MAX = 120_000;
export const TENANT = "a".repeat(32);

/** The process died during a request. */
export class CutOff extends Error {
  constructor(cause: unknown) {
    super("the connection was cut", { cause });
    this.name = "CutOff";
  }
}

export class PageserverChild implements AsyncDisposable {
  readonly workdir: string;
  /** Path of the one tenant. */
  readonly tenant = `/v1/tenant/${TENANT}`;
  /** The end of the log of the process that runs or ran last. */
  log = "";
  private readonly compiled: string;
  private child: ChildProcess | undefined;
  private url = "";

  /** `settings` are lines of pageserver.toml. */
  constructor(directory: string, settings: string) {
    this.workdir = join(directory, "work");
    this.compiled = join(directory, "compiled");
    mkdirSync(this.workdir);
    const listen = 'listen = "127.0.0.1:0"\nlog_level = "info"\n';
    writeFileSync(join(this.workdir, "pageserver.toml"), listen + settings);
  }

  get isRunning(): boolean {
    return this.child !== undefined;
  }

  get isReady(): boolean {
    return this.log.includes('"msg":"ready"');
  }

  get pid(): number {
    const pid = this.child?.pid;
    assert.ok(pid !== undefined, "it runs");
    return pid;
  }

  /** Starts the pageserver and waits until it is ready. */
  async start(): Promise<void> {
    this.launch();
    await this.ready();
  }

  launch(): void {
    assert.equal(this.child, undefined, "one process at a time");
    this.log = "";
    const env = { ...process.env, NODE_COMPILE_CACHE: this.compiled };
    const child = spawn(process.execPath, [PROGRAM, "--workdir", this.workdir], {
      stdio: ["ignore", "ignore", "pipe"],
      env,
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.log = (this.log + text).slice(-20_000);
    });
    this.child = child;
  }

  async ready(): Promise<void> {
    for (const deadline = performance.now() + READY_MS_MAX; ; await sleep(5)) {
      const listen = /"listen":"([^"]+)"[^\n]*"msg":"ready"/.exec(this.log)?.[1];
      if (listen !== undefined) {
        this.url = `http://${listen}`;
        return;
      }
      const { child } = this;
      assert.ok(child && child.exitCode === null && child.signalCode === null, "it runs");
      assert.ok(performance.now() < deadline, "it is ready in time");
    }
  }

  /** Kills the process and waits until it is gone. */
  async kill(): Promise<void> {
    const { child } = this;
    if (child === undefined) return;
    const gone = child.exitCode !== null || child.signalCode !== null;
    const exited = gone ? undefined : once(child, "exit");
    child.kill("SIGKILL");
    await exited;
    assert.ok(!gone && child.signalCode === "SIGKILL", "it ran until it was killed");
    this.child = undefined;
  }

  async ok(method: string, path: string, body?: object | Uint8Array): Promise<Record<string, unknown>> {
    return JSON.parse(await this.text(method, path, body)) as Record<string, unknown>;
  }

  async text(method: string, path: string, body?: object | Uint8Array): Promise<string> {
    const response = await this.fetch(method, path, body);
    const text = await response.text().catch((error: unknown) => {
      throw new CutOff(error);
    });
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return text;
  }

  async fetch(method: string, path: string, body?: object | Uint8Array): Promise<Response> {
    const content = body instanceof Uint8Array ? Buffer.from(body) : body && JSON.stringify(body);
    try {
      return await fetch(this.url + path, { method, ...(content === undefined ? {} : { body: content }) });
    } catch (error) {
      throw new CutOff(error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { child } = this;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  }
}
