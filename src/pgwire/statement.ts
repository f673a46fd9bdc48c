/** What a server of the protocol is made of: who may come in, which statements there are, and what they may do. */
import type { NeonError } from "../base/errors.ts";
import type { Channel } from "./channel.ts";
import type { Column } from "./encode-backend.ts";
import type { ScramVerifier } from "./scram-server.ts";

/** What is known of a client before it is let in. */
export interface Caller {
  readonly user: string;
  readonly parameters: ReadonlyMap<string, string>;
  readonly encrypted: boolean;
  /** The connection does not leave this machine. */
  readonly loopback: boolean;
}

/**
 * How a client proves who it is. A user that does not exist has keys that no password fits, and no identity. A password
 * in clear text is asked for only where nobody else can read it.
 */
export type Admission<Identity> =
  | { readonly kind: "trust"; readonly identity: Identity }
  | { readonly kind: "scram"; readonly verifier: ScramVerifier; readonly identity: Identity | undefined }
  | { readonly kind: "cleartext"; readonly check: (password: string) => Promise<Identity> };

/**
 * One execution of a statement, as it sees its client. At most one kind of answer: rows or one of the copies; but
 * whole results may come before and behind a CopyOut, and one CopyOut behind another.
 */
export interface StatementSession<Identity> {
  readonly identity: Identity;
  /** Aborted when the client goes away or cancels, or the server stops; with a NeonError as reason. */
  readonly signal: AbortSignal;
  /** Tells the client's user something, before the answer. */
  warn(message: string, hint: string): Promise<void>;
  /** One row; as many values as the statement has columns. Resolves when the client can take more. */
  row(values: readonly (string | null)[]): Promise<void>;
  /** Rows whose columns are known only now. Not the last result of the statement: ends it, so that others may follow. */
  resultSet(
    columns: readonly Column[],
    rows: readonly (readonly (string | null)[])[],
    options?: { readonly last?: boolean },
  ): Promise<void>;
  /** Begins CopyOut. What is sent is a payload each, which must not be changed any more; the end of the statement ends it. */
  copyOut(): Promise<{ send(payload: Uint8Array): Promise<void> }>;
  /** Begins CopyIn: what the client sends, until it says that this was all. */
  copyIn(): Promise<AsyncIterable<Uint8Array>>;
  /** Begins CopyBoth. */
  copyBoth(): Promise<StatementChannel>;
}

export interface StatementChannel extends Channel {
  /** A payload that is here already, without waiting; undefined if none is, or the client has ended. */
  receiveNow(): Uint8Array | undefined;
  /** CopyData frames that the caller has put together. They stay as they are until `onWritten` is called, if ever. */
  sendFrames(frames: Uint8Array, onWritten: () => void): Promise<void>;
}

export interface Statement<Identity> {
  /** Undefined for a statement that returns no rows. */
  readonly columns: readonly Column[] | undefined;
  /** Ends with the command tag, or undefined for the usual one. What it throws becomes an ErrorResponse. */
  run(session: StatementSession<Identity>): Promise<string | undefined>;
}

/** The statements that a connection may run. */
export interface Statements<Identity> {
  /** Throws `usage` for what is no statement; undefined for an empty text. */
  prepare(text: string): Statement<Identity> | undefined;
}

/** A connection that is served otherwise than most. */
export interface OwnStatements<Identity> extends Statements<Identity> {
  /** Told to the client in place of the usual parameters of these names, or beside them. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** What the protocol serves. */
export interface Backends<Identity> extends Statements<Identity> {
  /** Throws for a client that is not to be asked for a password at all. */
  admit(caller: Caller): Admission<Identity>;
  /** When a client is to be let go, in milliseconds from now, and why; undefined for one that may stay. */
  expiry?(identity: Identity): { readonly inMs: number; readonly reason: NeonError } | undefined;
  /** For a client that has been let in and wants something special; undefined for one like all others. May refuse it. */
  open?(caller: Caller, identity: Identity): (OwnStatements<Identity> & Partial<Disposable>) | undefined;
}
