{{- define "cumulet.name" -}}
{{- if contains "cumulet" .Release.Name -}}
{{ printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-cumulet-operator" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "cumulet.selector" -}}
app.kubernetes.io/name: cumulet-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "cumulet.labels" -}}
{{ include "cumulet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "cumulet.image" -}}
{{ .image.repository }}:{{ .image.tag | default .chart.AppVersion }}
{{- end }}
