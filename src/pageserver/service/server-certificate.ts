/**
 * The certificate that the pageserver shows, from its files. They are looked at for each connection, so that a renewed
 * certificate holds without a restart; one that cannot be used is reported and the one before it kept.
 */
import { X509Certificate, createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { createSecureContext } from "node:tls";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import type { ServerTls } from "../../pgwire/server-startup.ts";

export interface CertificateFiles {
  readonly certPath: string;
  readonly keyPath: string;
}

export class ServerCertificate {
  private readonly files: CertificateFiles;
  private stamp: string;
  private tls: ServerTls;

  private constructor(files: CertificateFiles) {
    this.files = files;
    this.stamp = stampOf(files);
    this.tls = read(files);
  }

  /** Throws `resource` or `usage` if the files cannot be used. */
  static load(files: CertificateFiles): ServerCertificate {
    return new ServerCertificate(files);
  }

  current(): ServerTls {
    const stamp = stampOf(this.files);
    if (stamp !== this.stamp) {
      this.stamp = stamp;
      try {
        this.tls = read(this.files);
      } catch {
        // Half of a new pair, perhaps: the next change of a file is looked at again.
      }
    }
    return this.tls;
  }
}

function stampOf({ certPath, keyPath }: CertificateFiles): string {
  return [certPath, keyPath]
    .map((path) => {
      const stats = statSync(path, { throwIfNoEntry: false });
      return stats ? `${stats.ino} ${stats.mtimeMs} ${stats.size}` : "none";
    })
    .join(", ");
}

function read({ certPath, keyPath }: CertificateFiles): ServerTls {
  const cert = readPart(certPath);
  const key = readPart(keyPath);
  if (process.platform !== "win32" && (statSync(keyPath).mode & 0o077) !== 0) {
    throw new NeonError(ErrorCode.Usage, `${keyPath} can be read by others`, {
      hint: `It is secret: chmod 0600 ${keyPath}`,
    });
  }
  try {
    const { raw } = new X509Certificate(cert);
    return {
      context: createSecureContext({ cert, key, minVersion: "TLSv1.2" }),
      certificateHash: createHash(bindingHash(raw)).update(raw).digest(),
    };
  } catch (error) {
    throw new NeonError(
      ErrorCode.Usage,
      `certificate ${certPath} and key ${keyPath} cannot be used: ${messageOf(error)}`,
      { hint: "Both are in PEM and belong together; `neon pageserver cert` makes a pair.", cause: error },
    );
  }
}

/**
 * RFC 5929, tls-server-end-point: the hash of the certificate's signature, but SHA-256 instead of MD5 and SHA-1. The
 * object identifiers of the algorithms with longer hashes, as DER, are looked for in the certificate.
 */
function bindingHash(der: Buffer): string {
  const sha384 = ["06082a8648ce3d040303", "06092a864886f70d01010c"];
  const sha512 = ["06082a8648ce3d040304", "06092a864886f70d01010d"];
  const has = (identifiers: readonly string[]): boolean =>
    identifiers.some((identifier) => der.includes(Buffer.from(identifier, "hex")));
  if (has(sha384)) return "sha384";
  return has(sha512) ? "sha512" : "sha256";
}

function readPart(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new NeonError(ErrorCode.Resource, `cannot read ${path}: ${messageOf(error)}`, {
      hint: "`neon pageserver cert` makes a certificate and its key.",
      cause: error,
    });
  }
}
