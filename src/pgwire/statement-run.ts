/** One execution of a statement on the server: turns rows and copies into messages, in the order that is allowed. */
import { ErrorCode, NeonError, assert } from "../base/errors.ts";
import { CopyChannel } from "./channel.ts";
import {
  type Column,
  encodeCommandComplete,
  encodeCopyBothResponse,
  encodeCopyInResponse,
  encodeCopyOutResponse,
  encodeDataRow,
  encodeRowDescription,
} from "./encode-backend.ts";
import type { FrameConnection } from "./frame-connection.ts";
import { encodeCopyDone } from "./frontend.ts";
import { encodeWarning } from "./wire-errors.ts";
import type { Statement, StatementChannel, StatementSession } from "./statement.ts";

/** Small messages are sent together up to this size. */
const BATCH_BYTES = 2 ** 15;
/** How long a client may take to say that it has seen the end of a CopyBoth. */
const END_TIMEOUT_MS = 60_000;

export interface RunOptions<Identity> {
  readonly identity: Identity;
  readonly signal: AbortSignal;
  /** Whether rows are described here: in the simple protocol, where nobody asks for it. */
  readonly describe: boolean;
  /** Format of each column, or of all, or none given: text. */
  readonly formats: readonly number[];
}

export class StatementRun<Identity> implements StatementSession<Identity> {
  readonly identity: Identity;
  readonly signal: AbortSignal;
  private readonly connection: FrameConnection;
  private readonly columns: readonly Column[] | undefined;
  private readonly options: RunOptions<Identity>;
  private mode: "none" | "rows" | "copy-out" | "copy-in" | "copy-both" | "results" = "none";
  private channel: CopyChannel | undefined;
  private batch: Uint8Array[] = [];
  private batchBytes = 0;
  private rows = 0;

  constructor(
    connection: FrameConnection,
    statement: Pick<Statement<Identity>, "columns">,
    options: RunOptions<Identity>,
  ) {
    this.connection = connection;
    this.columns = statement.columns;
    this.options = options;
    this.identity = options.identity;
    this.signal = options.signal;
  }

  async warn(message: string, hint: string): Promise<void> {
    assert(this.mode === "none", "a warning comes before the answer");
    await this.connection.write(encodeWarning(message, hint));
  }

  async row(values: readonly (string | null)[]): Promise<void> {
    const { columns } = this;
    assert(columns?.length === values.length, "a value for each column");
    this.describeRows(columns);
    this.signal.throwIfAborted();
    this.rows += 1;
    await this.queue(encodeDataRow(values, columns, this.options.formats));
  }

  async resultSet(
    columns: readonly Column[],
    rows: readonly (readonly (string | null)[])[],
    { last = false }: { readonly last?: boolean } = {},
  ): Promise<void> {
    assert(this.mode === "none" || this.mode === "results" || this.mode === "copy-out", "no rows of its own");
    this.signal.throwIfAborted();
    if (this.mode === "copy-out") this.push(encodeCopyDone());
    this.mode = "results";
    this.push(encodeRowDescription(columns, this.options.formats));
    for (const row of rows) this.push(encodeDataRow(row, columns, this.options.formats));
    if (!last) this.push(encodeCommandComplete("SELECT"));
    await this.flush();
  }

  async copyOut(): Promise<{ send(payload: Uint8Array): Promise<void> }> {
    // Several may follow each other, as in a base backup of servers before 15.
    if (this.mode === "copy-out") {
      this.push(encodeCopyDone());
      await this.flush();
      this.mode = "results";
    }
    this.begin("copy-out");
    await this.connection.write(encodeCopyOutResponse());
    const channel = new CopyChannel(this.connection, "server");
    return {
      send: async (payload) => {
        this.signal.throwIfAborted();
        await channel.sendOwned(payload);
      },
    };
  }

  async copyIn(): Promise<AsyncIterable<Uint8Array>> {
    this.begin("copy-in");
    await this.connection.write(encodeCopyInResponse());
    this.channel = new CopyChannel(this.connection, "server");
    return payloads(this.channel);
  }

  async copyBoth(): Promise<StatementChannel> {
    this.begin("copy-both");
    await this.connection.write(encodeCopyBothResponse());
    this.channel = new CopyChannel(this.connection, "server");
    return this.channel;
  }

  /** Says that the statement is done. */
  async complete(tag: string | undefined): Promise<void> {
    if (this.mode === "none" && this.columns) this.describeRows(this.columns);
    if (this.mode === "copy-out") await this.queue(encodeCopyDone());
    if (this.mode === "copy-both") await this.endBoth();
    // Like the original: a copy counts as one result.
    const usual = this.mode === "rows" ? `SELECT ${this.rows}` : "SELECT 1";
    await this.queue(encodeCommandComplete(tag ?? usual));
    await this.flush();
  }

  /** After a failure: what was not sent is dropped. */
  discard(): void {
    this.batch = [];
    this.batchBytes = 0;
  }

  private begin(mode: "copy-out" | "copy-in" | "copy-both"): void {
    const mayBegin = this.mode === "none" || (this.mode === "results" && mode === "copy-out");
    assert(mayBegin, "one kind of answer");
    this.signal.throwIfAborted();
    this.mode = mode;
  }

  private describeRows(columns: readonly Column[]): void {
    assert(this.mode === "none" || this.mode === "rows", "one kind of answer");
    if (this.mode === "rows") return;
    this.mode = "rows";
    if (this.options.describe) this.push(encodeRowDescription(columns, this.options.formats));
  }

  /** Our end of the channel, then the client's: only then is the next message a query again. */
  private async endBoth(): Promise<void> {
    const { channel } = this;
    assert(channel !== undefined, "a channel");
    await channel.end();
    const deadline = performance.now() + END_TIMEOUT_MS;
    while ((await channel.receive()) !== undefined) {
      if (performance.now() > deadline) {
        throw new NeonError(ErrorCode.Timeout, "the client goes on sending after the end of a transfer");
      }
    }
  }

  private push(bytes: Uint8Array): void {
    this.batch.push(bytes);
    this.batchBytes += bytes.length;
  }

  private async queue(bytes: Uint8Array): Promise<void> {
    this.push(bytes);
    if (this.batchBytes >= BATCH_BYTES) await this.flush();
  }

  private async flush(): Promise<void> {
    if (this.batch.length === 0) return;
    const bytes = Buffer.concat(this.batch);
    this.discard();
    await this.connection.write(bytes);
  }
}

async function* payloads(channel: CopyChannel): AsyncGenerator<Uint8Array> {
  for (;;) {
    const payload = await channel.receive();
    if (payload === undefined) return;
    yield payload;
  }
}
