/**
 * What every command has: --json, --repo and --tenant-id, one way to report failures, and the way from the flags to
 * repository, pageserver client and computes. The heavy parts are imported only by commands that use them.
 */
import { Command } from "@oclif/core/command";
import { string as stringFlag } from "@oclif/core/flags";
import type { NeonError } from "../../base/errors.ts";
import { type TenantId, parseTenantId } from "../../base/ids.ts";
import type { PageserverClient } from "../../client/pageserver-client.ts";
import type { Repository } from "../../repository/repository.ts";
import { failureOf, failureOfSignal } from "./failure.ts";
import { Interruption } from "./interruption.ts";
import { failureJson, paint, reportFailure } from "./output.ts";

/** Fields of a JSON answer beside `ok`; names in snake_case. */
export type JsonFields = Readonly<Record<string, unknown>>;

/** The flags that every command has, after parsing. */
export interface CommonFlags {
  readonly repo?: string | undefined;
  readonly "tenant-id"?: string | undefined;
}

export abstract class BaseCommand extends Command {
  static override enableJsonFlag = true;
  static override baseFlags = {
    repo: stringFlag({
      summary: "Directory of the repository (otherwise searched upward from here).",
      helpGroup: "GLOBAL",
      helpValue: "DIR",
      env: "NEON_REPO_DIR",
    }),
    "tenant-id": stringFlag({
      summary: "Tenant to work on, if not the default one.",
      helpGroup: "GLOBAL",
      helpValue: "HEX",
    }),
  };

  /** What to do after Ctrl-C, for commands that can be gone on with. */
  protected afterInterruption: string | undefined;

  protected readonly interruption = new Interruption((signal) => {
    const failure = failureOfSignal(signal, this.afterInterruption);
    reportFailure(failure, this.jsonEnabled());
    process.exit(failure.exitCode);
  });

  /** Returns what --json prints beside `ok`. */
  abstract override run(): Promise<JsonFields>;

  /** Prints data: a line on stdout, nothing with --json. */
  protected print(text: string): void {
    if (!this.jsonEnabled()) process.stdout.write(`${text}\n`);
  }

  /** Says something to the person at the terminal: a line on stderr, nothing with --json. */
  protected say(text: string): void {
    if (!this.jsonEnabled()) process.stderr.write(`${text}\n`);
  }

  /** Says something that must not be missed, with --json too. */
  protected caution(text: string): void {
    process.stderr.write(`${paint("yellow", "warning:", process.stderr)} ${text}\n`);
  }

  /**
   * An answer that is a failure as well, because what was looked for has been found. Shows the failure and sets the
   * exit code; with --json its `error` stands beside the fields.
   */
  protected withFailure(fields: JsonFields, error: NeonError): JsonFields {
    const failure = failureOf(error, "");
    process.exitCode = failure.exitCode;
    if (!this.jsonEnabled()) reportFailure(failure, false);
    return { ...failureJson(failure), ...fields };
  }

  protected override toSuccessJson(result: unknown): unknown {
    return { ok: true, ...(typeof result === "object" ? result : {}) };
  }

  protected override async catch(error: unknown): Promise<void> {
    const { received } = this.interruption;
    const failure =
      received === undefined
        ? failureOf(error, (this.id ?? "").replaceAll(":", " "))
        : failureOfSignal(received, this.afterInterruption);
    process.exitCode = failure.exitCode;
    reportFailure(failure, this.jsonEnabled());
    if (process.env["NEON_DEBUG"]) console.error(error);
    return Promise.resolve();
  }

  protected override async finally(): Promise<void> {
    this.interruption[Symbol.dispose]();
    return Promise.resolve();
  }

  protected async findRepository(flags: CommonFlags): Promise<Repository> {
    const { Repository } = await import("../../repository/repository.ts");
    return Repository.find(process.cwd(), flags.repo);
  }

  protected tenantOf(repository: Repository, flags: CommonFlags): TenantId {
    const text = flags["tenant-id"];
    return text === undefined ? repository.config.defaultTenantId : parseTenantId(text);
  }

  /** A client of the repository's pageserver; connects only when used. */
  protected async pageserverOf(
    repository: Repository,
    flags: CommonFlags,
    options: { timeoutMs?: number } = {},
  ): Promise<PageserverClient> {
    const { pageserverClientOf } = await import("./pageserver.ts");
    return pageserverClientOf(repository, { tenantId: this.tenantOf(repository, flags), ...options });
  }
}
