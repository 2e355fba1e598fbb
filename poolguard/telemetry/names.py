"""Names of OpenTelemetry's semantic conventions for database connection pools.

Source: https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools
"""

POOL_NAME = "db.client.connection.pool.name"
"""The attribute that all metrics have."""

CREATE_TIME = "db.client.connection.create_time"
WAIT_TIME = "db.client.connection.wait_time"
USE_TIME = "db.client.connection.use_time"
