param(
    [Parameter(Mandatory = $true)][string]$Folder,
    [int]$Keep = 7
)

$ErrorActionPreference = "Stop"
$stamp = Get-Date -Format "yyyy-MM-dd"
$target = Join-Path -Path $Folder -ChildPath "$stamp.zip"

function Write-Log([string]$Message) {
    Write-Host ("{0} {1}" -f (Get-Date -Format o), $Message)
}

if (-not (Test-Path $Folder)) { New-Item -ItemType Directory -Path $Folder | Out-Null }
Compress-Archive -Path "C:\\Data\\Tides\\*" -DestinationPath $target -Force

Get-ChildItem -Path $Folder -Filter *.zip |
    Sort-Object LastWriteTime -Descending |
    Select-Object -Skip $Keep |
    ForEach-Object { Write-Log "Removing $($_.Name)"; Remove-Item $_.FullName }
