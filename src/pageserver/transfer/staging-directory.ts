/** The directory of a tenant in which lies what other pageservers have begun to send. */
export const STAGING_DIRECTORY = "staging";
