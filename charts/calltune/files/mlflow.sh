#!/bin/sh
# Brings MLflow's database up to date and starts the server. Addresses with passwords come from the environment, where a
# list of processes does not show them.
set -eu
# Without a driver's name SQLAlchemy 2.1 takes psycopg, which MLflow is not tried with and the image does not have.
case $MLFLOW_BACKEND_STORE_URI in
    postgresql://*) export MLFLOW_BACKEND_STORE_URI="postgresql+psycopg2://${MLFLOW_BACKEND_STORE_URI#postgresql://}" ;;
esac
python3 "$(dirname "$0")/mlflow_database.py"
hosts=$MLFLOW_ALLOWED_HOSTS
if [ "${MLFLOW_METRICS:-}" = yes ]; then
    # Prometheus asks each pod by its address.
    case $POD_IP in *:*) hosts="$hosts,[$POD_IP]:5000" ;; *) hosts="$hosts,$POD_IP:5000" ;; esac
fi
set -- server --host 0.0.0.0 --port 5000 --workers "$MLFLOW_WORKERS" --serve-artifacts --allowed-hosts "$hosts"
if [ "$MLFLOW_AUTH_MODE" = basic ]; then
    # In an ini file a percent sign, as in an encoded password, is written twice.
    users=$(printf %s "${MLFLOW_AUTH_DATABASE_URI:-$MLFLOW_BACKEND_STORE_URI}" | sed 's/%/%%/g')
    export MLFLOW_AUTH_CONFIG_PATH=/tmp/basic_auth.ini
    umask 077
    printf '[mlflow]\ndefault_permission = READ\ndatabase_uri = %s\n' "$users" > "$MLFLOW_AUTH_CONFIG_PATH"
    set -- "$@" --app-name basic-auth
fi
if [ "${MLFLOW_METRICS:-}" = yes ]; then
    set -- "$@" --expose-prometheus /tmp/metrics
fi
exec mlflow "$@"
