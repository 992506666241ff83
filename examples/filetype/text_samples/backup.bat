@echo off
setlocal enabledelayedexpansion
rem Keep the last seven archives of the tide data.
set FOLDER=%1
if "%FOLDER%"=="" (
    echo usage: backup.bat FOLDER
    exit /b 1
)
if not exist "%FOLDER%" mkdir "%FOLDER%"
set COUNT=0
for /f "delims=" %%F in ('dir /b /o-d "%FOLDER%\\*.zip"') do (
    set /a COUNT+=1
    if !COUNT! gtr 7 (
        echo removing %%F
        del /q "%FOLDER%\\%%F"
    )
)
endlocal
goto :eof
