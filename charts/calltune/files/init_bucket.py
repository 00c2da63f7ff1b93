"""Makes the bucket if it is absent, and refuses a store in which promotion would not be safe.

python3 init_bucket.py BUCKET, with AWS_ENDPOINT_URL_S3 and AWS_* in the environment.
"""

import sys
import uuid

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def main(bucket: str) -> int:
    """Returns the exit code: 0 the bucket is there and does what is needed, 1 it is not, with one line that says why."""
    try:
        s3 = boto3.client("s3")
        print(f"bucket {bucket}: {_made(s3, bucket)}")
        # The promotion ledger appends with this condition; a store that ignores it would let two champions through.
        key = f".calltune-init-{uuid.uuid4().hex}"
        s3.put_object(Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*", ChecksumAlgorithm="SHA256")
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*", ChecksumAlgorithm="SHA256")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                raise
        else:
            print(f"bucket {bucket}: the store ignores If-None-Match, so that promotion is not safe: use another store")
            return 1
        finally:
            s3.delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError, ValueError) as error:
        print(f"bucket {bucket}: {error}; store.* in the chart's values says where it is, store.secretName with which keys")
        return 1
    print(f"bucket {bucket}: conditional writes work")
    return 0


def _made(s3, bucket: str) -> str:  # type: ignore[no-untyped-def]
    try:
        s3.head_bucket(Bucket=bucket)
        return "is there"
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
    region = s3.meta.region_name
    # AWS takes its oldest region only as a default, never by name.
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, **where)
    return "made"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
