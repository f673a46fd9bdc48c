/** The key pair for tokens beside the pageserver's data; the names are the original's. */
export const PRIVATE_KEY_FILE = "auth_private_key.pem";
export const PUBLIC_KEY_FILE = "auth_public_key.pem";
