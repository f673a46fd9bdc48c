/** The libpq side of the pageserver: who is let in, and the table of commands behind the protocol. */
import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import type { Random } from "../../../base/seams.ts";
import { SqlState } from "../../../pgwire/errors.ts";
import { LibpqServer, type LibpqServerOptions } from "../../../pgwire/libpq-server.ts";
import { type ScramVerifier, makeScramVerifier, mockScramVerifier } from "../../../pgwire/scram-server.ts";
import type { ServerTls } from "../../../pgwire/server-startup.ts";
import type { Admission, Caller, OwnStatements } from "../../../pgwire/statement.ts";
import { DEFAULT_USER } from "../../../pgwire/uri.ts";
import { WireError } from "../../../pgwire/wire-errors.ts";
import type { Authentication } from "../authentication.ts";
import { AuthenticationError } from "../authentication-error.ts";
import type { Metrics } from "../metrics.ts";
import { wantsReplication } from "./replication-branch.ts";
import type { ReplicationService } from "./replication-service.ts";
import { type CommandRun, CommandTable, type LibpqCommand } from "./command.ts";
import type { Identity } from "../identity.ts";

export interface LibpqServiceOptions extends LibpqServerOptions {
  /** The password of the user `neon`. Without one, everybody on this machine is let in. */
  readonly token: string | undefined;
  /** Lets clients of other machines in without encryption. */
  readonly insecure: boolean;
}

export interface LibpqServiceDependencies {
  readonly commands: readonly LibpqCommand[];
  /** For clients that want to follow a branch; undefined where nobody can. */
  readonly replication?: ReplicationService | undefined;
  readonly log: Logger;
  readonly random: Random;
  readonly metrics: Metrics;
  readonly tls: () => ServerTls | undefined;
  /** Of tokens, and of those who need none. */
  readonly authentication: Pick<Authentication, "takesTokens" | "isOpenTo" | "jwt">;
  /** Keys and rights of a user; undefined if there is none of this name. */
  readonly findUser: (name: string) => { verifier: ScramVerifier; identity: Identity } | undefined;
}

/** Failures that whoever runs the pageserver should know of. */
const OWN_FAILURES: ReadonlySet<ErrorCode> = new Set([
  ErrorCode.Failed,
  ErrorCode.Corrupt,
  ErrorCode.Resource,
]);

export class LibpqService implements AsyncDisposable {
  /** Commands are answered only in this state. */
  ready = false;
  private readonly options: LibpqServiceOptions;
  private readonly dependencies: LibpqServiceDependencies;
  private readonly server: LibpqServer<Identity>;
  /** Keys of the user `neon`; undefined if there is no token. */
  private readonly own: ScramVerifier | undefined;
  private readonly mockSecret = randomBytes(32);

  private constructor(
    options: LibpqServiceOptions,
    dependencies: LibpqServiceDependencies,
    own: ScramVerifier | undefined,
  ) {
    this.options = options;
    this.dependencies = dependencies;
    this.own = own;
    const table = new CommandTable(dependencies.commands, (run) => this.onCommandEnd(run));
    const { log, random, tls } = dependencies;
    this.server = new LibpqServer<Identity>(options, {
      backends: {
        admit: (caller) => this.admit(caller),
        prepare: (text) => {
          if (!this.ready) throw starting();
          return table.prepare(text);
        },
        open: (caller, identity) => this.open(caller, identity, table),
        expiry: ({ expiresAt }) =>
          expiresAt === undefined ? undefined : { inMs: expiresAt - Date.now(), reason: expired() },
      },
      tls,
      random,
      onLogin: (user, encrypted) => log.debug({ user, encrypted }, "libpq client"),
      onFailure: (error, peer) => log.info({ peer, err: error }, "libpq connection ended"),
    });
  }

  static async create(
    options: LibpqServiceOptions,
    dependencies: LibpqServiceDependencies,
  ): Promise<LibpqService> {
    const { token } = options;
    const own = token === undefined ? undefined : await makeScramVerifier(token, dependencies.random);
    return new LibpqService(options, dependencies, own);
  }

  /** Throws `resource` when the port is taken. */
  listen(): Promise<void> {
    return this.server.listen();
  }

  get port(): number {
    return this.server.port;
  }

  get connectionCount(): number {
    return this.server.connectionCount;
  }

  stop(graceMs: number): Promise<void> {
    return this.server.stop(graceMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop(0);
  }

  private onCommandEnd({ name, user, ms, error }: CommandRun): void {
    const { log, metrics } = this.dependencies;
    metrics.libpqCommands.add({ command: name, result: error?.code ?? "ok" });
    metrics.libpqDurations.observe({ command: name }, ms / 1000);
    const about = { command: name, user, ms: Math.round(ms) };
    if (!error) log.debug(about, "libpq command");
    else if (OWN_FAILURES.has(error.code)) {
      log.error({ ...about, code: error.code, err: error }, `libpq command failed: ${error.message}`);
    } else log.info({ ...about, code: error.code }, `libpq command refused: ${error.message}`);
  }

  /** What a client that speaks the replication protocol is served by. */
  private open(
    caller: Caller,
    identity: Identity,
    table: CommandTable,
  ): (OwnStatements<Identity> & Disposable) | undefined {
    const { replication } = this.dependencies;
    if (!wantsReplication(caller) || !replication) return undefined;
    if (!this.ready) throw starting();
    return replication.open(caller, identity, (text) => table.prepare(text));
  }

  private async ofToken(user: string, token: string): Promise<Identity> {
    try {
      return await this.dependencies.authentication.jwt(token);
    } catch (error) {
      if (error instanceof AuthenticationError) throw notLetIn(user, error.message);
      throw error;
    }
  }

  private admit({ user, encrypted, loopback }: Caller): Admission<Identity> {
    if (!loopback && !encrypted && !this.options.insecure) {
      throw new WireError(
        SqlState.InvalidAuthorization,
        ErrorCode.Unreachable,
        "this pageserver lets clients of other machines in with TLS only",
        { hint: "Use sslmode=require or, better, sslmode=verify-full with its certificate." },
      );
    }
    const everything: Identity = { user, tenants: "all" };
    const known = this.dependencies.findUser(user);
    if (known) return { kind: "scram", ...known };
    if (user === DEFAULT_USER && this.own) return { kind: "scram", verifier: this.own, identity: everything };
    const { authentication } = this.dependencies;
    // As over HTTP: without a token and without keys, whoever reaches a loopback address may do everything.
    if (authentication.isOpenTo({ loopback })) return { kind: "trust", identity: everything };
    // Whoever has a token says it as the password of any name; never where others could read it.
    if (authentication.takesTokens && (encrypted || loopback)) {
      return { kind: "cleartext", check: (password) => this.ofToken(user, password) };
    }
    return { kind: "scram", verifier: mockScramVerifier(user, this.mockSecret), identity: undefined };
  }
}

/** For what is no token, and for a token that does not hold. */
function notLetIn(user: string, why: string): WireError {
  return new WireError(
    SqlState.InvalidPassword,
    ErrorCode.Unreachable,
    `password authentication failed for user "${user}": ${why}`,
    {
      hint: "The password is a token (`neon pageserver token`); users with passwords of their own: `neon pageserver user list`.",
    },
  );
}

function expired(): WireError {
  return new WireError(SqlState.InvalidAuthorization, ErrorCode.Unreachable, "the token has expired", {
    hint: "Connect again with a new one: neon pageserver token",
  });
}

function starting(): NeonError {
  return new WireError(SqlState.CannotConnectNow, ErrorCode.Unreachable, "the pageserver is starting", {
    hint: "Try again in a moment.",
  });
}
