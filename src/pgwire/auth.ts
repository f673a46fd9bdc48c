/**
 * Answers of a client to a server's authentication requests: trust, clear-text password, MD5 and SCRAM-SHA-256.
 * Sources: PostgreSQL 17 documentation, "SASL Authentication"; RFC 5802, RFC 7677.
 */
import { createHash } from "node:crypto";
import { ByteReader } from "../base/bytes.ts";
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";
import { encodePassword, encodeSaslInitial, encodeSaslResponse } from "./frontend.ts";
import { SCRAM_MECHANISM, ScramClient } from "./scram.ts";

/** Request codes in an Authentication message. */
const Request = {
  Ok: 0,
  CleartextPassword: 3,
  Md5Password: 5,
  Sasl: 10,
  SaslContinue: 11,
  SaslFinal: 12,
} as const;

export interface Credentials {
  readonly user: string;
  readonly password?: string | undefined;
}

/** One authentication dialogue. */
export class ClientAuth {
  private readonly credentials: Credentials;
  private readonly random: Random;
  private readonly isPrivate: boolean;
  private scram: ScramClient | undefined;
  private finished = false;

  /** `isPrivate` says that nobody else can read what is sent: it is encrypted, or does not leave this machine. */
  constructor(credentials: Credentials, random: Random, { isPrivate }: { readonly isPrivate: boolean }) {
    this.credentials = credentials;
    this.random = random;
    this.isPrivate = isPrivate;
  }

  /** True once the server has let us in. */
  get done(): boolean {
    return this.finished;
  }

  /** Takes the body of an Authentication message; returns what to send, or undefined for nothing. */
  async answer(body: Uint8Array): Promise<Uint8Array | undefined> {
    const reader = new ByteReader(body);
    const request = reader.u32be();
    switch (request) {
      case Request.Ok:
        if (this.scram !== undefined && !this.scram.verified) throw unproven();
        this.finished = true;
        return undefined;
      case Request.CleartextPassword:
        if (!this.isPrivate) throw inTheClear();
        return encodePassword(this.password());
      case Request.Md5Password:
        return encodePassword(md5Answer(this.credentials.user, this.password(), reader.copy(4)));
      case Request.Sasl:
        return this.startSasl(reader);
      case Request.SaslContinue:
        return encodeSaslResponse(await this.runningScram().answer(reader.utf8(reader.remaining)));
      case Request.SaslFinal:
        this.runningScram().verify(reader.utf8(reader.remaining));
        return undefined;
      default:
        throw new NeonError(ErrorCode.Unsupported, `Postgres asks for authentication method ${request}`, {
          hint: "Allow trust, password, md5 or scram-sha-256 for this user in pg_hba.conf.",
          data: { request },
        });
    }
  }

  private startSasl(reader: ByteReader): Uint8Array {
    const mechanisms: string[] = [];
    while (reader.remaining > 1) mechanisms.push(reader.cstring());
    if (!mechanisms.includes(SCRAM_MECHANISM)) {
      throw new NeonError(ErrorCode.Unsupported, `Postgres offers only ${mechanisms.join(", ")}`);
    }
    this.scram = new ScramClient(this.password(), this.random);
    return encodeSaslInitial(SCRAM_MECHANISM, this.scram.start());
  }

  private runningScram(): ScramClient {
    if (!this.scram) throw new NeonError(ErrorCode.Corrupt, "SASL message before the start of SASL");
    return this.scram;
  }

  private password(): string {
    if (this.credentials.password !== undefined) return this.credentials.password;
    throw new NeonError(
      ErrorCode.Unreachable,
      `the server asks for a password of user ${this.credentials.user}`,
      {
        hint: "Give one in the URI, in $PGPASSWORD or in a passfile; a Postgres may also allow trust in its pg_hba.conf.",
      },
    );
  }
}

/** `md5` and the digest of the digest of password and user, salted. */
export function md5Answer(user: string, password: string, salt: Uint8Array): string {
  const inner = createHash("md5")
    .update(password + user)
    .digest("hex");
  return `md5${createHash("md5").update(inner).update(salt).digest("hex")}`;
}

/** Who asks for it may not be who was meant, and everybody in between could read the answer. */
function inTheClear(): NeonError {
  return new NeonError(
    ErrorCode.Unreachable,
    "the server asks for the password in clear text, over a connection that others can read",
    { hint: "Use sslmode=verify-full, or a server that asks for scram-sha-256." },
  );
}

function unproven(): NeonError {
  return new NeonError(
    ErrorCode.Unreachable,
    "the server let us in without proving that it knows the password",
  );
}
