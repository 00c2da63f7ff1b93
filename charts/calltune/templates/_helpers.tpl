{{/* What everything of a release is called: the release's name, with calltune in it. */}}
{{- define "calltune.name" -}}
{{- if contains "calltune" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-calltune" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that a Service or a policy selects by. Call: include "calltune.selector" (list . "mlflow") */}}
{{- define "calltune.selector" -}}
app.kubernetes.io/name: calltune
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "calltune.labels" -}}
{{ include "calltune.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end }}

{{/* Of a pod. In a namespace of a Kubeflow Profile Istio puts its proxy into each: beside it a job does not end, and MLflow would let no
step in, since KFP starts steps without one. Only where the mesh is to authenticate it is wanted. Call as calltune.selector. */}}
{{- define "calltune.podLabels" -}}
{{ include "calltune.labels" . }}
{{- if not (and (has (index . 1) (list "mlflow" "test")) (eq (index . 0).Values.mlflow.auth.mode "mesh")) }}
sidecar.istio.io/inject: "false"
{{- end }}
{{- end }}

{{/* An image's reference: a digest, where there is one, instead of the tag. Call: include "calltune.image" (list . "cpu") */}}
{{- define "calltune.image" -}}
{{- $images := (index . 0).Values.images }}{{ $image := index $images (index . 1) -}}
{{- with $images.registry }}{{ . }}/{{ end }}{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag }}{{ end }}
{{- end }}

{{/* Of every pod: what Pod Security's level `restricted` asks for, and no token that nobody asked for. */}}
{{- define "calltune.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of every container. */}}
{{- define "calltune.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "calltune.storeUrl" -}}
{{- if .Values.seaweedfs.enabled }}http://{{ include "calltune.name" . }}-seaweedfs:8333{{ else }}{{ .Values.store.endpointUrl | trimSuffix "/" }}{{ end }}
{{- end }}

{{- define "calltune.storeUri" -}}
s3://{{ .Values.store.bucket }}{{ with .Values.store.prefix }}/{{ . }}{{ end }}
{{- end }}

{{/* How a container finds the store. */}}
{{- define "calltune.storeEnv" -}}
- {name: HOME, value: /tmp}
- {name: CALLTUNE_STORAGE, value: {{ include "calltune.storeUri" . | quote }}}
- {name: AWS_DEFAULT_REGION, value: {{ .Values.store.region | quote }}}
{{- with include "calltune.storeUrl" . }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.store.secretName }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.Values.store.secretName }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* How a client of MLflow finds it. */}}
{{- define "calltune.trackingEnv" -}}
{{- if .Values.mlflow.enabled }}
- {name: CALLTUNE_TRACKING, value: "http://{{ include "calltune.name" . }}-mlflow:5000"}
{{- if eq .Values.mlflow.auth.mode "basic" }}
- name: MLFLOW_TRACKING_USERNAME
  valueFrom: {secretKeyRef: {name: {{ .Values.mlflow.auth.secretName }}, key: username}}
- name: MLFLOW_TRACKING_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .Values.mlflow.auth.secretName }}, key: password}}
{{- end }}
{{- end }}
{{- end }}

{{/* The port in a URL; that of its scheme where it names none. */}}
{{- define "calltune.port" -}}
{{- $url := urlParse . }}{{ $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- if $port }}{{ $port }}{{ else if eq $url.scheme "https" }}443{{ else }}80{{ end }}
{{- end }}
